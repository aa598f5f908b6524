/* The token, which is kept until this tab is closed, and the polls. */

const POLL_MS = 2000, SLOW_POLL_MS = 10000, HIDDEN_POLL_MS = 30000, PATIENCE_MS = 5000;

let timer = null, polling = false, polledSlowly = 0;

place("token-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem("token", place("token").value.trim());
  place("token").value = "";
  tick();
});

async function ask(path, method = "GET") {
  const patience = new AbortController(), timer = setTimeout(() => patience.abort(), PATIENCE_MS);
  try {
    const token = sessionStorage.getItem("token"), headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(path, { method, headers, cache: "no-store", signal: patience.signal }).catch(error => {
      const late = error.name === "AbortError";
      throw Object.assign(error, { title: "No answer from the process", text: late ? `No response within ${PATIENCE_MS / 1000} seconds.` : "The connection failed." });
    });
    place("token-form").hidden = answer.status !== 401;
    if (answer.status === 401) throw { title: token ? "The token is not accepted" : "A token is required", text: "Enter the token of admin.token_file.", status: 401 };
    if (!answer.ok) throw { title: `The process answered ${answer.status}`, text: `${path}: ${await answer.text()}`, status: answer.status };
    return await answer.json();
  } finally {
    clearTimeout(timer);
  }
}

function show() {
  showHead(); showDrain(); showTiles(); showListeners(); showBackends(); showCharts(); showReasons(); showFiles(); showRollouts();
}

/** Polls everything, with one request at a time: the port accepts few connections. */
async function poll() {
  try {
    const status = await ask("/status");
    // Another version has another page.
    if (state && status.version !== state.version) return location.reload();
    before = state && { status: state, at: answeredAt };
    state = status; answeredAt = Date.now(); trouble = null;
    noteBusy();
    inPlace(() => { show(); showAge(); });
    if (Date.now() - polledSlowly > SLOW_POLL_MS) {
      await pollTops();
      await pollSessions();
      polledSlowly = Date.now();
    }
  } catch (error) {
    trouble = { title: error.title || "This page failed", text: error.text || `${error.message}.`, status: error.status };
    inPlace(showAge);
  }
}

async function tick() {
  if (polling) return;
  polling = true;
  clearTimeout(timer);
  try {
    await poll();
  } finally {
    polling = false;
    timer = setTimeout(tick, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
  }
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
tick();
