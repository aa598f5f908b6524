/* The tiles, the listeners and the backends. */

const BUSY_MS = 120000;

/** When an answer came, and the busy time of the worker threads in it: those of the last two minutes. */
let busySamples = [];

function noteBusy() {
  if (!state.resources) return;
  busySamples = [...busySamples.filter(([at]) => at > answeredAt - BUSY_MS), [answeredAt, state.resources.busy_seconds]];
}

/** Returns the share of the last two minutes for which the worker threads were busy; null if it is known for less than
    `least` seconds. */
function busyShare(least = 1) {
  if (busySamples.length < 2) return null;
  const [[from, then], [to, now]] = [busySamples[0], busySamples.at(-1)], seconds = (to - from) / 1000;
  return seconds < least ? null : Math.min(1, Math.max(0, now - then) / seconds / Math.max(1, state.resources.workers));
}

/** Returns the look of a number of failures: one among many is no fault of this side. */
const failureLook = (failed, done) => failed >= 8 && failed > 0.1 * (failed + done) ? "bad strong" : "";

function expiryTile() {
  const ends = [...state.certificates, ...state.client_cas];
  const first = ends.reduce((a, b) => a && a.not_after <= b.not_after ? a : b, null);
  if (!first) return ["Next expiry", "none", "", ""];
  const left = first.cert ? certificateValidity(first) : caValidity(first, state.now);
  return ["Next expiry", left.text.replace(" left", ""), `${first.listener}, ${first.cert ? "certificate" : "client CA"}`, left.look];
}

function backendsTile() {
  const count = up => state.backends.filter(b => b.up === up).length;
  const up = count(true), down = count(false), untried = count(null);
  const under = [down && `${number(down)} down`, untried && `${number(untried)} not tried yet`].filter(part => part).join(", ") || "none is down";
  return ["Backends up", `${number(up)} / ${number(state.backends.length)}`, under, down ? "bad" : up ? "good" : "soft"];
}

function resourceTiles() {
  const { resources } = state, busy = busyShare();
  if (!resources) return [];
  const { memory_bytes: memory, memory_limit_bytes: limit, open_fds: open, max_fds: most } = resources;
  const look = (share, warn) => share > warn ? "warn" : "";
  return [
    ["Memory", size(memory), limit ? `${percent(memory / limit)} of ${size(limit)}` : "", limit ? look(memory / limit, 0.9) : ""],
    ["File descriptors", number(open), `of ${number(most)}`, look(open / Math.max(1, most), 0.8)],
    ["Processor", busy === null ? "–" : percent(busy), `of ${plural(resources.workers, "worker thread")}`, look(busy ?? 0, 0.9)],
  ];
}

function showTiles() {
  const all = key => sum(state.listeners.map(l => l[key]));
  const recent = state.recent.listeners;
  const failed = sum(recent.map(l => failures(l, LATELY))), done = sum(recent.map(l => within(l.handshakes, LATELY)));
  const bytes = key => bytesRate(answer => sum(answer.listeners.map(l => l[key])));
  const tiles = [
    ["Connections", number(all("active")), plural(all("sessions"), "session"), ""],
    ["Throughput", bytes("bytes_to_backend"), `to backends; ${bytes("bytes_to_client")} to devices`, ""],
    ["In handshake", number(all("handshakes_in_progress")), "now", ""],
    ["Handshakes", number(done), "completed in 5 minutes", ""],
    ["Failures", number(failed), "in 5 minutes", failureLook(failed, done)],
    expiryTile(),
    backendsTile(),
    ["Files", state.reload.failing ? "invalid" : "valid", `as of ${moment(state.reload.last_success)}`, state.reload.failing ? "bad" : "good"],
    ...resourceTiles(),
  ];
  if (!isNew("tiles", tiles)) return;
  place("tiles").replaceChildren(...tiles.map(([name, figure, under, look]) =>
    el("div", { class: "tile" }, el("dt", {}, name), el("dd", { class: "figure " + look }, figure), el("dd", { class: "under" }, under))));
}

function showListeners() {
  fill("listeners", state.listeners.map(l => {
    const done = within(past(l.name).handshakes, LATELY), failed = failures(past(l.name), LATELY);
    const bytes = key => ({ text: bytesRate(answer => answer.listeners.find(other => other.name === l.name)?.[key] ?? NaN), look: "n" });
    return { key: l.name, cells: [
      l.name,
      { text: l.address, look: "id" },
      { text: `${number(l.active)} of ${number(l.limit)}${l.at_limit ? ", at limit" : ""}`, look: l.at_limit ? "nowrap bad strong" : "nowrap", meter: { value: l.active, of: Math.max(1, l.limit) } },
      right(l.handshakes_in_progress), right(l.sessions),
      bytes("bytes_to_backend"), bytes("bytes_to_client"),
      right(done), { text: number(failed), look: `n ${failureLook(failed, done)}` },
    ] };
  }), "none");
}

function showBackends() {
  fillByName("backends", state.backends.map(b => {
    const connects = Object.entries(b.connects).filter(([, count]) => count);
    return [b.listener, { text: b.backend, look: "id" }, backendState(b), right(b.sessions ?? 0), inWords(connects) || "none"];
  }), "none");
}
