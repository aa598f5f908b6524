//! `GET /`: the status page for people.
//!
//! It polls `GET /status` and `GET /top`.
//!
//! **Promises.** The page is self-contained: it loads nothing from elsewhere, and its content security policy
//! allows requests to this port and its own script only. Its explanations of reasons are those of
//! docs/reasons.md.
//!
//! **Not here.** The data (`status.rs`, `views.rs`), the layout (`page.html`).

use std::sync::LazyLock;

use data_encoding::BASE64;
use serde::Serialize;

use crate::terms::reason::Reason;
use crate::trust::digest::sha256;

/// The page as written, and the place of the reasons in it.
const TEMPLATE: &str = include_str!("page.html");
const REASONS_PLACEHOLDER: &str = "[\"reasons\"]";

/// A document with a table row for each reason: label, meaning, remedy.
const REASONS: &str = include_str!("../../../docs/reasons.md");

/// The page as served.
pub(super) static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

/// A page, and the content security policy for it.
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
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
        let reasons = serde_json::to_string(&reasons()).expect("it is text and flags");
        // No text may look like the end of the script element.
        let reasons = reasons.replace('<', "\\u003c");
        let html = TEMPLATE.replacen(REASONS_PLACEHOLDER, &reasons, 1);
        let hash =
            |tag: &str| format!("'sha256-{}'", BASE64.encode(&sha256(within(tag).as_bytes())));
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        );
        Self { html, policy }
    }
}

/// Returns the content of the element that opens with exactly this tag.
fn within(tag: &str) -> &'static str {
    let after = TEMPLATE.split_once(&format!("<{tag}>")).map_or("", |(_, after)| after);
    after.split_once(&format!("</{tag}>")).map_or("", |(within, _)| within)
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
        assert!(html.contains("\"client_tls_alert\"") && !html.contains(REASONS_PLACEHOLDER));
        let elements = ["<script>", "<style>"].map(|tag| TEMPLATE.matches(tag).count());
        assert_eq!(elements, [1, 1], "the policy has the hash of one each");
        assert!(!within("script").is_empty() && !within("style").is_empty(), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for outside in ["http:", "https:", "//cdn", "@import", "url(", "src="] {
            // The namespace of SVG is a name, not an address to load.
            let text = TEMPLATE.replace("\"http://www.w3.org/2000/svg\"", "");
            assert!(!text.contains(outside), "{outside}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!TEMPLATE.contains(markup), "{markup}");
        }
    }
}
