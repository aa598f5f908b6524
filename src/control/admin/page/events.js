/* Events, while their part of the page is open: the process records sessions only for those who follow them. */

const EVENTS = 50, RETURN_MS = 2000, DRAWN_MS = 250;

/** The last events, newest first; the number of the last one; the end of the stream that is read; the next drawing. */
let happened = [], lastNumber = null, following = null, drawing = null;

const EVENT_TEXTS = {
  opened: e => [e.tls, e.sni, e.backend && `to ${e.backend}`],
  closed: e => [e.reason, `after ${span(e.duration_seconds ?? 0)}`, `${size(e.bytes_to_backend ?? 0)} to the backend`, `${size(e.bytes_to_client ?? 0)} to the device`],
  refused: e => [e.reason, e.error, e.likely_cause && `likely cause: ${e.likely_cause}`],
  reload: e => [e.outcome, ...e.failures, ...e.waiting],
  certificate: e => [`${e.cert}, serial ${e.serial}, until ${moment(e.not_after)}`],
  trust: e => [e.object, e.file, `${number(e.added ?? 0)} added`, `${number(e.removed ?? 0)} removed`],
  config: e => [e.changed],
  recheck: e => [`${plural(e.sessions, "session")} checked`, `${number(e.revoked)} revoked`, `${number(e.expired)} expired`, `${number(e.not_allowed)} not allowed`],
  drain: e => [e.phase, plural(e.connections, "connection")],
  backend: e => [e.backend, e.up ? "up" : "down"],
  lost: e => [e.count === null ? "events are missing here" : `${plural(e.count, "event")} missing here`],
};

/** Returns the device of an event; before its certificate is verified, by what it claims. */
function eventDevice({ identity = null, cert_subject: claimed = null, peer = null }) {
  if (identity !== null) return { text: identity, look: "id", note: { text: peer, look: "soft" } };
  return claimed === null ? { text: peer ?? "", look: "id" } : { text: claimed, look: "id", note: { text: `claimed, not verified; ${peer}`, look: "soft" } };
}

function showEvents(none) {
  fill("events", happened.map(event => {
    const text = (EVENT_TEXTS[event.kind]?.(event) ?? []).filter(part => part).join(", ");
    return { key: String(event.number), cells: [{ text: moment(event.at), look: "nowrap" }, event.kind, event.listener ?? "", eventDevice(event), text] };
  }), none);
}

/** Shows the events of a part of the stream, which is a block of lines. */
function takeEvent(block) {
  const data = block.split("\n").filter(line => line.startsWith("data: ")).map(line => line.slice(6)).join("\n");
  if (!data) return;
  const event = JSON.parse(data);
  lastNumber = event.number;
  happened = [event, ...happened].slice(0, EVENTS);
}

/** Shows the events a few times per second, however many there are. */
function showSoon() {
  drawing ??= setTimeout(() => {
    drawing = null;
    if (state) inPlace(() => showEvents("No event yet."));
  }, DRAWN_MS);
}

async function readEvents(signal) {
  const token = sessionStorage.getItem("token"), headers = token ? { Authorization: `Bearer ${token}` } : {};
  // Those that are kept are shown first.
  const answer = await fetch(`/events?since=${lastNumber ?? 0}`, { headers, cache: "no-store", signal });
  if (!answer.ok) throw new Error(`the process answered ${answer.status}: ${await answer.text()}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "";;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    blocks.forEach(takeEvent);
    showSoon();
  }
}

/** Follows the events while their part of the page is open and visible, and returns to the last one after a break. */
async function follow() {
  const isWanted = () => place("events-details").open && !document.hidden;
  if (following || !isWanted()) return isWanted() || following?.abort();
  while (isWanted()) {
    following = new AbortController();
    try {
      await readEvents(following.signal);
    } catch (error) {
      if (state && isWanted()) inPlace(() => showEvents(`The events cannot be read: ${error.message}.`));
    }
    if (isWanted()) await new Promise(resolve => setTimeout(resolve, RETURN_MS));
  }
  following = null;
}

place("events-details").addEventListener("toggle", follow);
document.addEventListener("visibilitychange", follow);
