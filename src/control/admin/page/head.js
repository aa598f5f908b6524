/* The header, the drain and the bars of causes. */

const GRADES = { critical: "Critical", warning: "Warning", notice: "Note", fine: "" };
const RUNBOOKS = new Set(KNOWN.runbooks);

const openConnections = () => sum(state.listeners.map(l => l.active));

function showHead() {
  setText("about", `${state.host || "unnamed host"} · version ${state.version} · up ${span(state.uptime_seconds)} · ${location.host}`);
}

/** Returns the most connections that were open when the drain began; none were accepted since. */
function openAtDrain() {
  const { ended_seconds_ago: ago, listeners } = state.recent, since = state.now - state.drain.started;
  // The sample before its beginning, and all since.
  const first = Math.max(0, ago.findLastIndex(end => end >= since));
  const open = ago.map((_, at) => sum(listeners.map(l => l.active[at]))).slice(first);
  return Math.max(openConnections(), ...open);
}

function showDrain() {
  const { drain, phase } = state;
  place("drain-section").hidden = drain.started === null;
  if (drain.started === null) return;
  const open = openConnections(), most = openAtDrain(), gone = most - open;
  const forced = sum(state.listeners.map(l => l.closed.drain_deadline || 0));
  const until = drain.started + drain.timeout_seconds, left = until - state.now;
  const bar = place("drain-progress");
  bar.max = Math.max(1, most);
  bar.value = most ? gone : 1;
  setText("drain-title", phase === "drained" ? "Drained: the process waits to be stopped" : `Not ready: ${phase}, ${left > 0 ? `at most ${span(left)} left` : "past its end"}`);
  setText("drain-text", [
    phase === "drained" ? forced ? `${plural(forced, "connection")} had to be forced.` : "All connections ended by themselves." : `${number(gone)} of ${plural(most, "connection")} ${gone === 1 ? "has" : "have"} ended, ${number(open)} ${open === 1 ? "is" : "are"} open.`,
    `Since ${moment(drain.started)}, until ${moment(until)} UTC at the latest.`,
    drain.waiting ? `${plural(drain.waiting, "session")} ${drain.waiting === 1 ? "waits" : "wait"} for the end of an exchange.` : "",
    drain.exceeds_timeout ? `At ${number(drain.max_closes_per_second)} closes per second it takes at least ${span(drain.least_seconds)}, longer than it may: the rest is forced.` : "",
  ].join(" ").trim());
}

/** Returns the state of the process in one word, for the colours of the header. */
function stateInAWord(found) {
  if (trouble) return "lost";
  if (!state) return "";
  const worst = ["critical", "warning"].find(grade => found.some(cause => cause.grade === grade));
  return worst ?? (state.phase === "running" ? "fine" : "draining");
}

function showProblems() {
  const found = state ? causes() : [];
  if (trouble) {
    const shown = answeredAt === null ? "" : ` The data below is ${span((Date.now() - answeredAt) / 1000)} old.`;
    found.unshift({ grade: "critical", alert: null, title: trouble.title, text: trouble.text + shown, effects: [] });
  }
  document.body.dataset.state = stateInAWord(found);
  const worst = found.filter(({ grade }) => grade !== "notice").length;
  const phase = trouble ? "no answer" : state ? state.phase : "";
  document.title = (worst ? `(${worst}) ` : "") + (state?.host ? `${state.host} · ` : "") + "tlsidecar" + (phase ? " · " + phase : "");
  if (!found.length) found.push({ grade: "fine", alert: null, title: "", text: "No problems found.", effects: [] });
  if (!isNew("problems", found)) return;
  // Counts change with every poll. A screen reader announces new problems only.
  setText("spoken", found.map(({ title, text }) => title || text).join(". "));
  place("problems").replaceChildren(...found.map(problemBar));
}

function problemBar({ grade, alert, title, text, effects }) {
  const heading = title ? [el("b", {}, `${GRADES[grade] ? `${GRADES[grade]}: ` : ""}${title}.`)] : [];
  const runbook = RUNBOOKS.has(alert) ? [el("a", { href: `/runbooks/${alert}`, target: "_blank", rel: "noopener", title: alert }, `Runbook ${alert}`)] : [];
  const list = effects.length ? [el("ul", {}, ...effects.map(effect => el("li", {}, effect)))] : [];
  return el("li", { class: grade }, ...heading, text, ...runbook, ...list);
}

function showAge() {
  document.body.classList.toggle("stale", trouble !== null);
  setText("phase", trouble ? trouble.status ? "refused" : "no answer" : state.phase);
  setText("live", answeredAt === null ? "" : `as of ${moment(state.now)} UTC`);
  showProblems();
}
