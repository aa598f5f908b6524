/* The charts of the last 15 minutes, each with its axes. */

const PLOTTED_S = 910, TALL = 84;

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Returns the end of an axis: 1, 2 or 5 times a power of ten, and at least `least`, so that one event is no peak. */
function axisEnd(most, least) {
  if (most <= least) return least;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map(step => step * power).find(end => end >= most);
}

/** Returns the end of an axis of bytes: a power of two of a unit. */
const bytesEnd = most => 2 ** Math.ceil(Math.log2(Math.max(1024, most)));

function chart(id, title) {
  const drawing = svg("svg", { id: `${id}-chart`, role: "img", viewBox: `0 0 ${PLOTTED_S} ${TALL}`, preserveAspectRatio: "none" });
  const along = ["15 min ago", "10 min", "5 min", "now"].map(text => el("span", {}, text));
  const up = ["most", "half", "none"].map(at => el("span", { id: `${id}-${at}` }));
  return el("figure", {}, el("figcaption", {}, el("span", {}, title), el("span", { id: `${id}-summary` })),
    el("div", { class: "plot" }, el("div", { class: "up", "aria-hidden": "true" }, ...up), drawing, el("div", { class: "along", "aria-hidden": "true" }, ...along)));
}

/** Plots `[seconds ago, figure, look]`. */
function plot(id, bars, end, summary, inText = number) {
  const shown = bars.filter(([ago, figure]) => figure > 0 && ago < PLOTTED_S).map(([ago, figure, look = ""]) => {
    const height = Math.max(1.5, figure / end * (TALL - 2));
    return svg("rect", { class: `bar ${look}${ago === 0 ? " begun" : ""}`, x: PLOTTED_S - ago - SAMPLE_S, width: 8, y: TALL - 1 - height, height });
  });
  const lines = [1, TALL / 2, TALL - 0.5].map(y => svg("line", { class: "axis", x1: 0, x2: PLOTTED_S, y1: y, y2: y }));
  place(`${id}-chart`).replaceChildren(...lines, ...shown);
  place(`${id}-chart`).setAttribute("aria-label", `${id} of the last 15 minutes: ${summary}`);
  for (const [at, figure] of [["most", end], ["half", end / 2], ["none", 0]]) setText(`${id}-${at}`, inText(figure));
  setText(`${id}-summary`, summary);
}

for (const [id, title] of [["connections", "Open connections"], ["throughput", "Throughput, bytes per second"], ["handshakes", "Handshakes completed per 10 s"], ["failures", "Failures per 10 s"]]) {
  place("charts").append(chart(id, title));
}

function showCharts() {
  const { ended_seconds_ago: ago, listeners } = state.recent;
  const added = lists => ago.map((_, at) => sum(lists.map(counts => counts[at])));
  const most = figures => Math.max(0, ...figures), bars = figures => figures.map((figure, at) => [ago[at], figure]);
  const total = figures => `${number(sum(figures))} in total, at most ${number(most(figures))}`;
  const open = added(listeners.map(l => l.active));
  plot("connections", bars(open), axisEnd(most(open), 10), `${number(open.at(-1) ?? 0)} now, at most ${number(most(open))}`);
  const bytes = added(listeners.flatMap(l => [l.bytes_to_backend || [], l.bytes_to_client || []].map(samples => ago.map((_, at) => samples[at] ?? 0))));
  const perSecond = bytes.map(figure => figure / SAMPLE_S);
  plot("throughput", bars(perSecond), bytesEnd(most(perSecond)), `at most ${size(most(perSecond))}/s`, size);
  const done = added(listeners.map(l => l.handshakes));
  plot("handshakes", bars(done), axisEnd(most(done), 10), total(done));
  const failed = added(listeners.flatMap(l => Object.entries(l.closed).filter(([reason]) => isFailure(reason)).map(([, counts]) => counts)));
  const graded = failed.map((figure, at) => [ago[at], figure, figure >= 5 && figure > 0.1 * (figure + done[at]) ? "failed" : "odd"]);
  plot("failures", graded, axisEnd(most(failed), 10), total(failed));
}
