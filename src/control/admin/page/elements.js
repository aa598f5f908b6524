/* Elements and text. Text from devices and files is added as text nodes, never as markup. */

const place = id => document.getElementById(id);

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Returns nodes for text in which backquotes enclose code. Of a link, which leads to a document, its text is left. */
function prose(text) {
  return text.replace(/\[([^\]]+)\]\([^)]*\)/g, "$1").split("`").map((part, at) => at % 2 ? el("code", {}, part) : part);
}

const button = (text, look, act) => {
  const made = el("button", { type: "button", class: look }, text);
  made.addEventListener("click", act);
  return made;
};

function setText(id, text) {
  if (place(id).textContent !== text) place(id).textContent = text;
}

/** The content that was last drawn, by element. */
const drawn = new Map();

function isNew(id, content) {
  const text = JSON.stringify(content), known = drawn.get(id) === text;
  drawn.set(id, text);
  return !known;
}

/* Figures and times in words. */

const MINUTE = 60, HOUR = 3600, DAY = 86400;

const sum = list => list.reduce((all, one) => all + one, 0);
const number = value => value.toLocaleString("en-GB");
const right = value => ({ text: number(value), look: "n" });
const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;
const listed = names => names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
const percent = share => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** Returns the UTC time, with the date unless it is that of the process's clock. */
function moment(unix) {
  const [text, today] = [unix, state.now].map(time => new Date(time * 1000).toISOString());
  return text.slice(0, 10) === today.slice(0, 10) ? text.slice(11, 19) : text.slice(0, 16).replace("T", " ");
}

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 2 * MINUTE) return plural(s, "second");
  if (s < 2 * HOUR) return plural(Math.floor(s / MINUTE), "minute");
  if (s < 2 * DAY) return plural(Math.floor(s / HOUR), "hour");
  return plural(Math.floor(s / DAY), "day");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function size(bytes) {
  const unit = bytes < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** unit).toFixed(unit ? 1 : 0)} ${UNITS[unit]}`;
}
