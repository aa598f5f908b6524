/* The last answers of the process, and sums over the last minutes. */

const SAMPLE_S = 10;

/** The last answer of `/status`; the one before, and when it came; when the last came; why there is none. */
let state = null, before = null, answeredAt = null, trouble = null;

const KNOWN = JSON.parse(place("known-reasons").textContent);
const REASONS = new Map(KNOWN.reasons.map(known => [known.reason, known]));
// An unknown reason counts as a failure.
const isFailure = reason => REASONS.get(reason)?.failure ?? true;

/** Sums the samples of which at least half is not older than that. */
function within(counts, seconds) {
  const { ended_seconds_ago: ago } = state.recent;
  return sum(counts.filter((_, at) => ago[at] === 0 || ago[at] + SAMPLE_S / 2 <= seconds));
}

/** Returns the number of connections that ended for a reason that `wanted` accepts. */
function ended(listener, wanted, seconds) {
  const closed = Object.entries(listener.closed).filter(([reason]) => wanted(reason));
  return sum(closed.map(([, counts]) => within(counts, seconds)));
}

/** Returns the counts of one kind by value, the highest first. */
function counted(byValue, seconds) {
  const counts = Object.entries(byValue || {}).map(([value, samples]) => [value, within(samples, seconds)]);
  return counts.filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
}

const inWords = counts => counts.map(([value, count]) => `${value} ${number(count)}`).join(", ");
const failures = (listener, seconds) => ended(listener, isFailure, seconds);
const past = name => state.recent.listeners.find(listener => listener.listener === name);

/** Returns the increase of a figure per second, between the last two answers; null before the second. */
function rate(figure) {
  const seconds = before && (answeredAt - before.at) / 1000;
  return seconds > 0 ? Math.max(0, figure(state) - figure(before.status)) / seconds : null;
}

const bytesRate = figure => {
  const found = rate(figure);
  return found === null || Number.isNaN(found) ? "–" : `${size(found)}/s`;
};
