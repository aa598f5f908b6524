/* Ended connections, by reason. */

function reasonDetails(reason) {
  const known = REASONS.get(reason) || { what: "", todo: "" };
  return el("details", {}, el("summary", {}, el("code", {}, reason)),
    el("p", {}, ...prose(known.what)), el("p", {}, el("b", {}, "Remedy: "), ...prose(known.todo)));
}

/** The keys with the details of a reason, and the words before them. */
const DETAILS = {
  client_tls_alert: [["alerts", ""], ["certificate_rejections", "likely cause "]],
  client_tls_incompatible: [["incompatible", ""], ["refused_suites", "best offer "]],
  client_tls_not_tls: [["not_tls", "looks like "]],
  no_route: [["no_route", ""]],
};

/** Returns what is known about the connections that ended for a reason, over all listeners. */
function reasonParts(reason) {
  const kinds = DETAILS[reason] || [];
  return kinds.flatMap(([kind, before]) => {
    const found = {};
    for (const l of state.recent.listeners) for (const [value, count] of counted(l[kind], QUARTER)) found[value] = (found[value] || 0) + count;
    const words = inWords(Object.entries(found).sort((a, b) => b[1] - a[1]));
    return words ? [before + words] : [];
  });
}

function showReasons() {
  const found = new Map();
  for (const l of state.listeners) for (const [reason, count] of Object.entries(l.closed)) {
    found.set(reason, (found.get(reason) || 0) + count);
  }
  const rows = [...found].map(([reason, total]) => {
    const where = state.recent.listeners.map(l => [l.listener, l.closed[reason] || []]);
    const [one, five, fifteen] = [MINUTE, LATELY, QUARTER].map(s => sum(where.map(([, counts]) => within(counts, s))));
    const named = where.map(([name, counts]) => [name, sum(counts)]).filter(([, count]) => count);
    return { reason, one, five, fifteen, total, named: inWords(named) };
  });
  rows.sort((a, b) => isFailure(b.reason) - isFailure(a.reason) || b.fifteen - a.fifteen || b.total - a.total || a.reason.localeCompare(b.reason));
  fill("reasons", rows.map(({ reason, one, five, fifteen, total, named }) => {
    const parts = reasonParts(reason).join("; ");
    const details = { text: named, note: parts ? { text: parts, look: "soft" } : null };
    return { key: reason, cells: [{ make: () => reasonDetails(reason), text: reason }, details, right(one), right(five), right(fifteen), right(total)] };
  }), "No connection has ended yet.");
}
