/* Sessions, and the devices that stand out. */

const SESSIONS = 20, MORE = 50, MOST = 1000, TYPING_MS = 300, TOP = 10;

/** The number of sessions that are asked for, the query of those that are shown, and the end of typing. */
let wanted = SESSIONS, shownQuery = "", typing = null;

/** The place of the button that ends a session, by its id. */
const endCells = new Map();

function endCell(id) {
  const cell = el("span", { class: "nowrap" });
  endCells.set(id, cell);
  offerEnd(id);
  return cell;
}

function offerEnd(id) {
  endCells.get(id)?.replaceChildren(...(state.page_ends_sessions ? [button("End", "", () => confirmEnd(id))] : []));
}

function confirmEnd(id) {
  const keep = button("Keep", "", () => { offerEnd(id); endCells.get(id)?.firstChild?.focus(); });
  endCells.get(id)?.replaceChildren(button("End this session", "danger", () => endSession(id)), keep);
  keep.focus();
}

async function endSession(id) {
  const cell = endCells.get(id);
  cell.replaceChildren("ending");
  try {
    await ask(`/sessions/${id}`, "DELETE");
    cell.replaceChildren("ended");
  } catch (error) {
    if (error.status !== 404) return cell.replaceChildren(el("span", { class: "bad" }, error.title || "failed"));
  }
  await pollSessions();
}

async function pollSessions() {
  const search = place("search").value.trim(), sort = place("sort").value;
  const query = new URLSearchParams({ limit: wanted, sort, ...(search && { search }) }).toString();
  const found = await ask(`/sessions?${query}`), isNewList = query !== shownQuery;
  shownQuery = query;
  inPlace(() => showSessions(found, search, isNewList));
}

function showSessions(found, search, isNewList) {
  fill("sessions", found.sessions.map(session => {
    const { id, identity, peer, sni, listener, tls, age_seconds: age, idle_seconds: idle } = session;
    return { key: String(id), cells: [
      { text: identity ?? "no certificate", look: identity === null ? "soft" : "id" }, { text: peer, look: "id" }, { text: sni ?? "", look: "id" }, listener, tls ?? "",
      { text: span(age), look: "n" }, { text: span(idle), look: "n" }, { text: size(session.bytes_to_backend), look: "n" }, { text: size(session.bytes_to_client), look: "n" },
      { make: () => endCell(id), text: "" },
    ] };
  }), search ? "No session matches." : "No session.", isNewList);
  for (const [id, cell] of endCells) if (!cell.isConnected) endCells.delete(id);
  const why = state.page_ends_sessions ? "" : "; this page can end none: the admin port needs a token for it, or an address of this machine alone";
  setText("sessions-note", `${number(found.sessions.length)} of ${plural(found.matching, "session")}${why}`);
  place("sessions-more").hidden = found.sessions.length >= found.matching || wanted >= MOST;
}

function searchSoon(delay) {
  clearTimeout(typing);
  // The next poll tries again.
  typing = setTimeout(() => pollSessions().catch(() => { polledSlowly = 0; }), delay);
}

place("search").addEventListener("input", () => searchSoon(TYPING_MS));
place("sort").addEventListener("change", () => searchSoon(0));
place("sessions-form").addEventListener("submit", event => { event.preventDefault(); searchSoon(0); });
place("sessions-more").addEventListener("click", () => { wanted = Math.min(MOST, wanted + MORE); searchSoon(0); });

const TOPS = [
  ["peers", "peer", "No failures in the last hour."],
  ["identities", "identity", "No failures of devices with a certificate in the last hour."],
  ["claimed", "certificate", "No certificate was refused in the last hour."],
];

async function pollTops() {
  for (const [id, by, none] of TOPS) {
    const top = await ask(`/top?by=${by}&what=failures&limit=${TOP}`);
    inPlace(() => showTop(id, top, none));
  }
}

function showTop(id, top, none) {
  fill(id, top.entries.map(({ name, count }) => ({ key: `name ${name}`, cells: [{ text: name, look: "id" }, right(count)] })), none);
  const over = top.error_at_most ? ` Each count may be too high by ${number(top.error_at_most)}.` : "";
  setText(id + "-note", top.entries.length && top.since !== null ? `Since ${moment(top.since)}.${over}` : "");
}
