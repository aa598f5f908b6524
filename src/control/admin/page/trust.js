/* Certificates, rollouts, client CAs, CRLs and reloads. */

function showFiles() {
  fillByName("certificates", state.certificates.map(c => {
    const left = certificateValidity(c);
    const note = c.rejected ? { text: `The newer file is rejected: ${c.rejected}`, look: "bad strong" } : null;
    return [c.listener, { text: c.cert, look: "id", note }, { text: left.text, look: "nowrap " + left.look }, { text: moment(c.not_after), look: "nowrap" }, c.key, { text: c.issuer, look: "id" }, { text: c.serial, look: "id" }];
  }), "none");
  const trust = state.client_cas.map(ca => {
    const left = caValidity(ca, state.now);
    return [ca.listener, { text: ca.ca, look: "id" }, { text: left.text, look: "nowrap " + left.look }];
  }).concat(state.crls.map(crl => {
    const late = crl.next_update < state.now;
    return [crl.listener, { text: crl.crl, look: "id" }, late ? { text: `overdue for ${span(state.now - crl.next_update)}`, look: "bad strong" } : { text: `next in ${span(crl.next_update - state.now)}`, look: "good" }];
  }));
  fillByName("trust", trust, "No listener requests client certificates.");
  showReload();
}

function showReload() {
  const { failing, last_success: success, last_swap: swap, failures, waiting } = state.reload;
  const row = (key, name, value) => ({ key, cells: [name, value] });
  fill("reload", [
    row("state", "State", failing ? { text: "The last reload failed; the current configuration is kept.", look: "bad strong" } : { text: "The files on disk are active.", look: "good" }),
    row("success", "Last found valid", moment(success)),
    row("swap", "Last change", swap === null ? "none since the start" : moment(swap)),
    ...failures.map((failure, at) => row(`failure ${at}`, "Failure", { text: failure, look: "bad" })),
    ...waiting.map((what, at) => row(`waiting ${at}`, "Restart required", what)),
  ], "");
}

const ROLLOUT_STATES = { observing: "observing", rolled_back: "rolled back", promoted: "promoted", withdrawn: "withdrawn", replaced: "replaced", disabled: "disabled" };
const ROLLOUT_CAUSES = { not_worse: "not worse", worse: "worse", operator: "an operator", earlier_expired: "the earlier one expired", changed: "a change of the files" };

const rolloutName = r => r.route === null ? r.listener : `${r.listener}, route ${r.route}`;

function showRollouts() {
  place("rollouts-section").hidden = !state.rollouts.length;
  const failed = group => ({ text: `${number(group.failed_addresses)} of ${number(group.addresses)}`, look: group.failed_addresses ? "n bad strong" : "n" });
  fillByName("rollouts", state.rollouts.map(r => [
    rolloutName(r),
    { text: ROLLOUT_STATES[r.state] ?? r.state, look: r.state === "rolled_back" ? "bad strong" : r.state === "observing" ? "warn" : "" },
    r.decided === null ? `not before ${moment(r.until)}` : `${moment(r.decided)}, by ${ROLLOUT_CAUSES[r.decided_by] ?? r.decided_by}`,
    `${r.share_percent} %`, moment(r.since), { text: r.new.map(c => c.serial).join(" "), look: "id" }, failed(r.groups.old), failed(r.groups.new),
  ]), "none");
}
