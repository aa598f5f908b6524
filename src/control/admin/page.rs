//! `GET /`: the status page for people.
//!
//! It polls `GET /status`, `GET /top` and `GET /sessions`.
//!
//! **Promises.** The page is self-contained: it loads nothing from elsewhere, and its content security policy
//! allows requests to this port and its own script only. Its explanations of reasons are those of
//! docs/reasons.md.
//!
//! **Not here.** The data (`status.rs`, `views.rs`), the layout (`page.html`, `page/style.css`), the script (`page/*.js`),
//! the runbooks (`runbooks.rs`).

use std::sync::LazyLock;

use data_encoding::BASE64;
use serde::Serialize;

use super::runbooks;
use crate::terms::reason::Reason;
use crate::trust::digest::sha256;

/// The layout of the page, and the places in it.
const TEMPLATE: &str = include_str!("page.html");
const KNOWN_PLACEHOLDER: &str = "[\"known\"]";
const STYLE_PLACEHOLDER: &str = "<style>style</style>";
const SCRIPT_PLACEHOLDER: &str = "<script>script</script>";

const STYLE: &str = concat!("\n", include_str!("page/style.css"));

/// The parts of the script, each after those that it uses when it is loaded.
const SCRIPT: &str = concat!(
    "\n\"use strict\";\n",
    include_str!("page/elements.js"),
    include_str!("page/recent.js"),
    include_str!("page/tables.js"),
    include_str!("page/validity.js"),
    include_str!("page/causes.js"),
    include_str!("page/head.js"),
    include_str!("page/overview.js"),
    include_str!("page/charts.js"),
    include_str!("page/reasons.js"),
    include_str!("page/trust.js"),
    include_str!("page/sessions.js"),
    include_str!("page/events.js"),
    include_str!("page/polling.js"),
);

/// A document with a table row for each reason: label, meaning, remedy.
const REASONS: &str = include_str!("../../../docs/reasons.md");

/// The page as served.
pub(super) static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

/// A page, and the content security policy for it.
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

/// Texts and names that the script of the page has without a request.
#[derive(Serialize)]
struct Known {
    reasons: Vec<Explanation>,
    /// The alerts that have a runbook.
    runbooks: Vec<&'static str>,
}

/// The explanation of a reason, as the script of the page reads it.
#[derive(Serialize)]
struct Explanation {
    reason: &'static str,
    failure: bool,
    what: &'static str,
    todo: &'static str,
}

impl Page {
    fn new() -> Self {
        let known = Known { reasons: reasons(), runbooks: runbooks::names().collect() };
        let known = serde_json::to_string(&known).expect("it is text and flags");
        // No text may look like the end of the script element.
        let known = known.replace('<', "\\u003c");
        let html = TEMPLATE
            .replacen(KNOWN_PLACEHOLDER, &known, 1)
            .replacen(STYLE_PLACEHOLDER, &format!("<style>{STYLE}</style>"), 1)
            .replacen(SCRIPT_PLACEHOLDER, &format!("<script>{SCRIPT}</script>"), 1);
        let hash =
            |content: &str| format!("'sha256-{}'", BASE64.encode(&sha256(content.as_bytes())));
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        Self { html, policy }
    }
}

/// Returns the explanations of all reasons, in the order of docs/reasons.md.
fn reasons() -> Vec<Explanation> {
    let rows = REASONS.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let label = cells.next()?.trim_matches('`');
        let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == label)?;
        let (what, todo) = (cells.next()?, cells.next()?);
        Some(Explanation { reason: reason.as_str(), failure: reason.is_failure(), what, todo })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_in_the_words_of_its_page() {
        let reasons = reasons();
        assert_eq!(reasons.len(), Reason::ALL.len());
        for Explanation { reason, what, todo, .. } in &reasons {
            let row = format!("| `{reason}` | {what} | {todo} |");
            assert!(REASONS.contains(&row), "{row}");
        }
    }

    #[test]
    fn the_page_is_self_contained() {
        let Page { html, policy } = &*PAGE;
        assert!(html.contains("\"client_tls_alert\"") && !html.contains(KNOWN_PLACEHOLDER));
        let elements = ["<script>", "</script>", "<style>", "</style>"];
        let counts = elements.map(|tag| html.matches(tag).count());
        assert_eq!(counts, [1, 2, 1, 1], "the policy has the hash of one each");
        assert!(html.contains(SCRIPT) && html.contains(STYLE));
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for outside in ["http:", "https:", "//cdn", "@import", "url(", "src="] {
            // The namespace of SVG is a name, not an address to load.
            let text = [TEMPLATE, STYLE, SCRIPT].concat();
            let text = text.replace("\"http://www.w3.org/2000/svg\"", "");
            assert!(!text.contains(outside), "{outside}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!TEMPLATE.contains(markup) && !SCRIPT.contains(markup), "{markup}");
        }
    }
}
