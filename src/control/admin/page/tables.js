/* Tables. Rows are kept by their key. Under the pointer, and while one of them has the keyboard focus, they stay where
   they are: their figures change, new rows come last, and rows that have ended are struck through. */

const tables = new Map();

/**
 * Shows rows of `{ key, cells }`. A cell is text, or has `text`, `look` (classes), `meter`, `note` (a second line), or
 * `make`, which makes its content once. A new list, as for another search, takes the place of the old one at once.
 */
function fill(id, rows, none, isNewList = false) {
  const body = place(id);
  if (!tables.has(id)) tables.set(id, { rows: new Map(), order: [], names: headings(body) });
  const table = tables.get(id);
  const shown = rows.length ? rows : [{ key: "none", cells: [{ text: none, look: "soft", across: true }] }];
  table.order = shown.map(({ key, cells }) => {
    if (!table.rows.has(key)) table.rows.set(key, newRow(id, key, cells, table.names));
    const row = table.rows.get(key);
    cells.forEach((cell, at) => showCell(row.cells[at], cell));
    return row.element;
  });
  arrange(id, isNewList);
}

/** Fills a table whose rows have no other key than their first cells. */
function fillByName(id, rows, none) {
  const known = new Map();
  const key = cells => {
    const name = JSON.stringify(cells.slice(0, 2).map(cell => cell.text ?? cell)), count = (known.get(name) || 0) + 1;
    known.set(name, count);
    return `${name} ${count}`;
  };
  fill(id, rows.map(cells => ({ key: key(cells), cells })), none);
}

function headings(body) {
  const table = body.parentElement;
  for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, th")]) {
    part.setAttribute("role", { TABLE: "table", TR: "row", TH: "columnheader" }[part.tagName] ?? "rowgroup");
  }
  return [...table.querySelectorAll("thead th")].map(heading => heading.textContent);
}

function newRow(id, key, cells, names) {
  const made = cells.map((cell, at) => {
    // The roles are those of the elements, which lose them where cards replace the rows.
    const attributes = at === 0 && !cell.across ? { scope: "row", role: "rowheader" } : { role: "cell" };
    if (at > 0) attributes["data-name"] = names[at] ?? "";
    if (cell.across) attributes.colspan = names.length;
    const element = el(at === 0 && !cell.across ? "th" : "td", attributes);
    if (cell.make) element.append(cell.make());
    return { element, drawn: null };
  });
  const attributes = { role: "row", ...(/^\w+$/.test(key) && { id: `${id}-${key}` }) };
  return { element: el("tr", attributes, ...made.map(({ element }) => element)), cells: made };
}

function showCell(known, cell) {
  const { text = cell, look = "", meter = null, note = null } = cell !== null && typeof cell === "object" ? cell : {};
  const now = JSON.stringify([text, look, meter, note]);
  if (known.drawn === now) return;
  known.drawn = now;
  known.element.className = look;
  if (cell.make) return;
  known.element.replaceChildren(String(text));
  if (meter) known.element.append(el("meter", { min: 0, max: meter.of, low: meter.of * 0.8, high: meter.of * 0.95, optimum: 0, value: meter.value, "aria-hidden": "true" }));
  if (note) known.element.append(el("div", { class: `note ${note.look}` }, note.text));
}

const isHeld = body => body.matches(":hover") || body.contains(document.activeElement);

/** Puts the rows of a table into their order, unless somebody is about to use one of them. */
function arrange(id, isNewList = false) {
  const body = place(id), { rows, order } = tables.get(id), present = [...body.children];
  const isHere = new Set(order);
  if (!isNewList && isHeld(body) && present.some(row => isHere.has(row))) {
    for (const row of present) row.classList.toggle("gone", !isHere.has(row));
    // A pointer can rest here for hours.
    const room = Math.max(0, 2 * order.length - present.length);
    body.append(...order.filter(row => row.parentElement !== body).slice(0, room));
  } else {
    for (const row of order) row.classList.remove("gone");
    if (present.length !== order.length || order.some((row, at) => present[at] !== row)) body.replaceChildren(...order);
  }
  for (const [key, { element }] of rows) if (!isHere.has(element) && !element.isConnected) rows.delete(key);
}

for (const event of ["pointerout", "focusout"]) {
  // Once the event is over, the pointer or the focus is elsewhere.
  document.addEventListener(event, () => setTimeout(() => { for (const id of tables.keys()) arrange(id); }));
}

/** Draws, and keeps the row that is under the pointer or has the focus at its place on the screen. */
function inPlace(draw) {
  const isSeen = element => element !== document.body && element.getBoundingClientRect().bottom > 0 && element.getBoundingClientRect().top < innerHeight;
  const anchor = document.querySelector("tbody tr:hover") ?? [document.activeElement].find(element => element && isSeen(element));
  const before = anchor?.getBoundingClientRect().top;
  // The browser's own correction would be a second one.
  document.documentElement.style.overflowAnchor = anchor ? "none" : "";
  // What is above it may grow, and may not shrink.
  const above = place("problems");
  above.style.minHeight = anchor ? `${above.offsetHeight}px` : "";
  draw();
  if (anchor?.isConnected) scrollBy(0, anchor.getBoundingClientRect().top - before);
  markWide();
}

/** Marks the tables that are wider than their place, and lets the keyboard scroll them. */
function markWide() {
  for (const area of document.querySelectorAll(".scroll")) {
    const isWide = area.scrollWidth > area.clientWidth + 1;
    area.classList.toggle("more", isWide);
    if (!isWide) for (const name of ["tabindex", "role", "aria-label"]) area.removeAttribute(name);
    else for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", `${area.closest("section").querySelector("h2").textContent}: table`]]) area.setAttribute(name, value);
  }
}

addEventListener("resize", markWide);
