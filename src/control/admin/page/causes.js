/* Causes of problems: the conditions of the alerts in deploy/prometheus/rules, as far as this page has the data. A cause
   that explains other problems, as a backend that is down explains devices that have left, has them in its own bar. */

const LATELY = 5 * MINUTE, QUARTER = 16 * MINUTE;
const NOT_REACHED = ["backend_refused", "backend_timeout", "backend_unreachable", "backend_error"];
const isHandshake = reason => /^client_(tls|cert)_|^client_(name_unknown|not_allowed)$/.test(reason);

/** The causes that are being collected, and what they explain: the listener and the problem. */
class Causes {
  found = [];
  explained = new Set();

  add(grade, alert, title, text, effects = []) {
    this.found.push({ grade, alert, title, text, effects });
  }

  explain(listener, problem) {
    this.explained.add(`${problem} ${listener}`);
  }

  isExplained(listener, problem) {
    return this.explained.has(`${problem} ${listener}`);
  }
}

/** Returns groups of the same key. */
function grouped(list, key) {
  const groups = new Map();
  for (const one of list) groups.set(key(one), [...(groups.get(key(one)) || []), one]);
  return [...groups.values()];
}

const listenersOf = list => listed([...new Set(list.map(one => one.listener))]);

/** Returns how many connections a listener has, and its maximum of the last 15 minutes, if it has lost most of them. */
function lost(l) {
  const peak = Math.max(0, ...past(l.name).active);
  return peak >= 20 && l.active < 0.5 * peak ? { name: l.name, peak, active: l.active } : null;
}

const lostInWords = ({ active, peak }) => `${plural(active, "connection")} ${active === 1 ? "is" : "are"} left; the maximum of the last 15 minutes is ${number(peak)}.`;

function processCauses(causes) {
  const { phase, drain, resources } = state;
  const until = drain.started === null ? 0 : drain.started + drain.timeout_seconds;
  if (phase === "starting") causes.add("notice", null, "Not ready: starting", "");
  if (["draining", "closing"].includes(phase) && state.now > until + MINUTE) {
    causes.add("warning", "TlsidecarDrainStuck", `Not ready: ${phase}, and should have ended at ${moment(until)}`, `${plural(openConnections(), "connection")} open.`);
  }
  // A drain takes the devices with it.
  if (phase !== "running") for (const l of state.listeners) causes.explain(l.name, "lost");
  if (!resources) return;
  if (resources.open_fds > 0.8 * resources.max_fds) causes.add("warning", "TlsidecarFdsHigh", "File descriptors are running out", `${number(resources.open_fds)} of ${number(resources.max_fds)} are open. A connection needs two.`);
  const busy = busyShare(MINUTE);
  if (busy !== null && busy > 0.9) causes.add("warning", "TlsidecarRuntimeBusy", "The worker threads are overloaded", `They were busy for ${percent(busy)} of the time. Handshakes wait.`);
  const dropped = before ? resources.log_lines_dropped - before.status.resources.log_lines_dropped : 0;
  if (dropped > 0) causes.add("warning", "TlsidecarLogLinesDropped", "Log lines are lost", `${plural(dropped, "line")} just now, ${number(resources.log_lines_dropped)} since the start: the reader of standard error is too slow.`);
}

function backendCauses(causes) {
  const down = state.backends.filter(b => b.up === false);
  const replaced = down.filter(b => b.has_replacement);
  for (const same of grouped(replaced, b => b.backend)) {
    causes.add("warning", "TlsidecarBackendAddressDown", `One backend of ${listenersOf(same)} is down`, `${same[0].backend}; another one serves its devices.${lookup(same[0].backend)}`);
  }
  // All backends of one listener are one cause, and so are all listeners with the same backends.
  const alone = grouped(down.filter(b => !b.has_replacement), b => b.listener);
  for (const same of grouped(alone, list => list.map(b => b.backend).sort().join())) {
    backendDown(causes, same.map(list => list[0].listener), same[0].map(b => b.backend));
  }
  for (const l of state.listeners.filter(l => !down.some(b => b.listener === l.name))) {
    const missed = notReached(l.name);
    if (missed >= 5 && missed > 0.05 * within(past(l.name).handshakes, LATELY)) {
      causes.add("warning", "TlsidecarBackendConnectErrors", `Backend of ${l.name} does not accept all connections`, `${plural(missed, "attempt")} to connect failed in 5 minutes.`);
    }
  }
}

const notReached = name => ended(past(name), reason => NOT_REACHED.includes(reason), LATELY);

/** Returns why the name of a backend cannot be resolved. */
function lookup(backend) {
  const { error } = (state.names || []).find(({ name }) => backend.startsWith(`${name}:`)) || {};
  return error ? ` Its name cannot be resolved: ${error}.` : "";
}

function backendDown(causes, listeners, backends) {
  const missed = sum(listeners.map(notReached)), where = `${backends.length > 1 ? "Backends" : "Backend"} of ${listed(listeners)}`;
  const text = backends.join(", "), resolved = backends.map(lookup).join("");
  // The result of the last attempt is meaningful only while there are attempts.
  if (missed < 3) return causes.add("notice", "TlsidecarBackendDown", `${where}: the last attempt to connect failed`, `${text}; there have been no further attempts.${resolved}`);
  const effects = listeners.flatMap(name => {
    causes.explain(name, "lost");
    const gone = lost(state.listeners.find(l => l.name === name));
    const refused = plural(notReached(name), "device");
    return [`${name}: ${refused} completed the handshake and ${notReached(name) === 1 ? "was" : "were"} disconnected in 5 minutes.`, ...(gone ? [`${name}: most devices have disconnected: ${lostInWords(gone)}`] : [])];
  });
  causes.add("critical", "TlsidecarBackendDown", `${where} ${backends.length > 1 ? "are" : "is"} down`, `${text}: ${plural(missed, "attempt")} to connect failed in 5 minutes, including the last one.${resolved}`, effects);
}

function limitCauses(causes) {
  for (const l of state.listeners) {
    if (l.at_limit) {
      // Those that wait in the backlog give up before their handshake.
      causes.explain(l.name, "handshakes");
      const failed = ended(past(l.name), isHandshake, LATELY);
      causes.add("critical", "TlsidecarConnectionsAtLimit", `${l.name} is at its limit`, `${number(l.active)} connections of ${number(l.limit)}; new ones wait.`, failed ? [`${plural(failed, "handshake")} failed in 5 minutes.`] : []);
    } else if (l.limit && l.active > 0.8 * l.limit) {
      causes.add("warning", "TlsidecarConnectionsNearLimit", `${l.name} is near its limit`, `${number(l.active)} connections of ${number(l.limit)}.`);
    }
  }
}

function fileCauses(causes) {
  const { now, reload } = state;
  if (reload.failing) causes.add("warning", "TlsidecarCertificateReloadFailing", "The last reload failed; the current configuration is kept", reload.failures.join(" · "));
  for (const same of grouped(state.certificates, c => `${c.cert} ${c.not_after}`)) {
    const [c] = same, { grade, text } = certificateValidity(c), expired = now > c.not_after;
    if (!grade) continue;
    const rejecting = same.map(({ listener }) => listener).filter(name => expired && rejections(name).refused);
    rejecting.forEach(name => causes.explain(name, "rejections"));
    causes.add(grade, expired ? "TlsidecarCertificateExpired" : "TlsidecarCertificateRenewalOverdue", `Certificate of ${listenersOf(same)}: ${text}`, `${c.cert}, until ${moment(c.not_after)} UTC`, rejecting.map(name => `${name}: ${rejections(name).text}`));
  }
  for (const same of grouped(state.client_cas, ca => `${ca.ca} ${ca.not_after}`)) {
    const { grade, text } = caValidity(same[0], now);
    if (grade) causes.add(grade, "TlsidecarClientCaExpiring", `Client CA of ${listenersOf(same)}: ${text}`, same[0].ca);
  }
  for (const same of grouped(state.crls, crl => crl.crl)) {
    const [crl] = same;
    if (crl.next_update < now) causes.add("warning", "TlsidecarCrlStale", `CRL of ${listenersOf(same)} is overdue for ${span(now - crl.next_update)}`, `${crl.crl}: new revocations are missing`);
  }
  for (const r of state.rollouts) {
    const figures = `${number(r.groups.new.failed_addresses)} of ${plural(r.groups.new.addresses, "address", "addresses")} failed with the new certificate, ${number(r.groups.old.failed_addresses)} of ${number(r.groups.old.addresses)} with the earlier one.`;
    if (r.state === "rolled_back") causes.add("warning", "TlsidecarCertificateRolledBack", `The new certificate of ${rolloutName(r)} was rolled back`, `${figures} A restart would send it to all devices: restore the earlier files.`);
    if (r.state === "observing") causes.add("notice", null, `A new certificate of ${rolloutName(r)} is sent to ${r.share_percent} % of the devices`, figures);
  }
  for (const waiting of reload.waiting) causes.add("notice", null, "A restart is required", waiting);
}

const unrouted = listener => ended(listener, reason => reason === "no_route", LATELY);

/** Returns the completed handshakes that led to a route. */
const routed = listener => Math.max(0, within(listener.handshakes, LATELY) - unrouted(listener));

/** Returns whether failures are so many that few devices can connect. While the fleet stays connected, one device that
    retries can be the only source of handshakes. */
const isMuch = (l, count) => count >= 20 && count > 0.05 * l.active;

/** Returns how many devices reject the certificate of a listener, whether these are many, and whether all of them do so for
    its validity. */
function rejections(name) {
  const listener = past(name), alerts = ended(listener, reason => reason === "client_tls_alert", LATELY);
  const tried = ended(listener, isHandshake, LATELY) + routed(listener);
  const likely = counted(listener.certificate_rejections, LATELY);
  const text = `${number(alerts)} of ${plural(tried, "handshake")} in 5 minutes ended with an alert from the device${inBrackets(counted(listener.alerts, LATELY))}.${likely.length ? ` Likely cause${likely.length > 1 ? "s" : ""}: ${inWords(likely)}.` : ""}`;
  const isTime = likely.length > 0 && likely.every(([cause]) => /^(clock|expired)/.test(cause));
  return { alerts, tried, text, isTime, refused: alerts >= 5 && alerts > 0.05 * tried };
}

function deviceCauses(causes) {
  for (const l of state.listeners) {
    handshakeCauses(causes, l);
    const listener = past(l.name), lostWay = unrouted(listener);
    const share = lostWay / Math.max(1, lostWay + ended(listener, isHandshake, LATELY) + routed(listener));
    if (lostWay >= 5 && share > 0.05) {
      causes.add(share > 0.5 && isMuch(l, lostWay) ? "critical" : "warning", "TlsidecarNoRoute", `Devices of ${l.name} match no route`, `${plural(lostWay, "connection")} in 5 minutes${inBrackets(counted(listener.no_route, LATELY))}: no route has their server name or protocol, and there is no default backend.`);
    }
    silenceCauses(causes, l);
    const faults = ended(listener, reason => reason === "internal", QUARTER);
    if (faults) causes.add("warning", "TlsidecarInternalError", `Connections to ${l.name} ended because of a bug in tlsidecar`, `${number(faults)} in 15 minutes; see the log.`);
  }
  const gone = state.listeners.filter(l => !causes.isExplained(l.name, "lost")).map(lost).filter(found => found);
  if (gone.length === 1) causes.add("critical", "TlsidecarMassDisconnect", `Most devices of ${gone[0].name} have disconnected`, lostInWords(gone[0]));
  // A network that several listeners share is one cause.
  if (gone.length > 1) causes.add("critical", "TlsidecarMassDisconnect", `Most devices of ${listed(gone.map(({ name }) => name))} have disconnected`, "Is the network down?", gone.map(found => `${found.name}: ${lostInWords(found)}`));
}

/** Adds the causes that nothing but silence shows. */
function silenceCauses(causes, l) {
  const listener = past(l.name), vanished = seconds => ended(listener, reason => reason === "client_lost", seconds);
  const now = vanished(LATELY), earlier = (vanished(QUARTER) - now) / 2, peak = Math.max(0, ...listener.active);
  if (now >= 5 && now > 0.05 * peak && now > 3 * earlier) causes.add("warning", "TlsidecarDevicesLost", `Devices of ${l.name} have stopped answering`, `${number(now)} in 5 minutes (client_lost). Has the network between failed?`);
  const waiting = l.backend_silent_sessions ?? 0;
  // Devices that only report always wait for an answer, and the page does not know the day before.
  if (waiting >= 5 && waiting > 0.2 * l.sessions) causes.add("notice", "TlsidecarBackendSilent", `Devices of ${l.name} wait for the legacy server`, `${number(waiting)} of ${plural(l.sessions, "session")} have had no answer for 30 seconds. That is usual if the devices only report.`);
}

function handshakeCauses(causes, l) {
  const listener = past(l.name), { alerts, tried, text, isTime, refused } = rejections(l.name);
  const failed = ended(listener, isHandshake, LATELY);
  if (refused && !causes.isExplained(l.name, "rejections")) causes.add(isMuch(l, alerts) ? "critical" : "warning", "TlsidecarDevicesRejectCertificate", `Devices reject the certificate of ${l.name}`, isTime ? text : `${text} Was the certificate replaced recently?`);
  const others = refused ? failed - alerts : failed;
  if (others < 8 || others <= 0.1 * tried || causes.isExplained(l.name, "handshakes")) return;
  // Strangers on a public port, who do not speak TLS, are no device that cannot connect.
  const isStranger = reason => reason === "client_tls_not_tls";
  const known = others - ended(listener, isStranger, LATELY);
  const grade = known > 0.5 * (known + routed(listener)) && isMuch(l, known) ? "critical" : "warning";
  const wanted = reason => isHandshake(reason) && !(refused && reason === "client_tls_alert") && !(grade === "critical" && isStranger(reason));
  const [[most, count]] = counted(Object.fromEntries(Object.entries(listener.closed).filter(([reason]) => wanted(reason))), LATELY);
  causes.add(grade, "TlsidecarHandshakeErrorsHigh", `Many handshakes of ${l.name} fail`, `${number(others)} of ${plural(tried, "handshake")} in 5 minutes; ${number(count)} of them: ${most}${details(listener, most)}.`);
}

const inBrackets = counts => counts.length ? ` (${inWords(counts)})` : "";

/** Returns the details of a reason: what client and listener did not have in common, the protocol instead of TLS. */
function details(listener, reason) {
  if (reason === "client_tls_not_tls") return inBrackets(counted(listener.not_tls, LATELY));
  if (reason !== "client_tls_incompatible") return "";
  const suites = inWords(counted(listener.refused_suites, LATELY));
  return `${inBrackets(counted(listener.incompatible, LATELY))}${suites && `; the best cipher suites that they offer: ${suites}`}`;
}

/** Returns all causes, the worst first. */
function causes() {
  const causes = new Causes();
  for (const add of [processCauses, backendCauses, limitCauses, fileCauses, deviceCauses]) add(causes);
  const order = ["critical", "warning", "notice"];
  return causes.found.sort((a, b) => order.indexOf(a.grade) - order.indexOf(b.grade));
}
