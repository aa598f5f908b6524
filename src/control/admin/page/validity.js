/* Grades of validities, as in the alerts: by the remaining share of the lifetime, and by the remaining time. */

function validity(from, until, now) {
  const left = until - now, share = left / Math.max(1, until - from);
  if (now < from) return { grade: "warning", look: "warn strong", text: `valid in ${span(from - now)}; is the clock right?` };
  if (left < 0) return { grade: "critical", look: "bad strong", text: `expired ${span(-left)} ago` };
  if (share < 0.1 && left < 7 * DAY) return { grade: "critical", look: "bad strong", text: `${span(left)} left` };
  if (share < 0.25 && left < 21 * DAY) return { grade: "warning", look: "warn strong", text: `${span(left)} left` };
  return { grade: "", look: "good", text: `${span(left)} left` };
}

/** Grades the validity of a client CA, whose successor takes long to roll out. */
function caValidity(ca, now) {
  const found = validity(ca.not_before, ca.not_after, now), left = ca.not_after - now;
  if (now < ca.not_before) return found;
  if (left < 7 * DAY) return { ...found, grade: "critical", look: "bad strong" };
  const late = left < 180 * DAY && left < 0.1 * (ca.not_after - ca.not_before);
  return late ? { ...found, grade: "warning", look: "warn strong" } : { ...found, grade: "", look: "good" };
}

const certificateValidity = c => validity(c.not_before, c.not_after, state.now);

/** Returns a text for each state of a backend. Grey: nobody has tried it. */
function backendState({ up, has_replacement: replaced }) {
  if (up === null) return { text: "not tried yet", look: "soft" };
  if (up) return { text: "up", look: "good" };
  return replaced ? { text: "down, another one serves", look: "warn" } : { text: "down", look: "bad strong" };
}
