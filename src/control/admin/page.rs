//! `GET /`: a page for people.
//!
//! It asks `GET /status` and `GET /top` again and again, and shows what they say.
//!
//! **Promises.** It is whole: it takes nothing from anywhere else, and its policy lets it ask this port
//! alone and run no script but its own. Why connections end, and what to do, it has from
//! docs/reasons.md.
//!
//! **Not here.** What it shows (`status.rs`, `views.rs`), how it looks (`page.html`).

use std::sync::LazyLock;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::terms::reason::Reason;
use crate::trust::digest::sha256;

/// The page as it is written, and where the reasons go.
const WRITTEN: &str = include_str!("page.html");
const REASONS_GO_HERE: &str = "[\"reasons\"]";

/// A table with a row for each reason: its label, what happened, what to do.
const REASONS: &str = include_str!("../../../docs/reasons.md");

/// The page as it is served.
pub(super) static PAGE: LazyLock<Page> = LazyLock::new(Page::make);

/// A page, and what a browser may do for it.
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

impl Page {
    fn make() -> Self {
        // Nothing in it may look like the end of the element that it stands in.
        let reasons = Value::Array(reasons()).to_string().replace('<', "\\u003c");
        let html = WRITTEN.replacen(REASONS_GO_HERE, &reasons, 1);
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

/// What stands in the element that opens with just this tag.
fn within(tag: &str) -> &'static str {
    let after = WRITTEN.split_once(&format!("<{tag}>")).map_or("", |(_, after)| after);
    after.split_once(&format!("</{tag}>")).map_or("", |(within, _)| within)
}

/// Every reason, in the order of docs/reasons.md.
fn reasons() -> Vec<Value> {
    let rows = REASONS.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let label = cells.next()?.trim_matches('`');
        let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == label)?;
        Some((reason, cells.next()?, cells.next()?))
    });
    let told = rows.map(|(reason, what, todo)| {
        let (reason, failure) = (reason.as_str(), reason.is_failure());
        json!({ "reason": reason, "failure": failure, "what": what, "todo": todo })
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_in_the_words_of_its_page() {
        let told = reasons();
        assert_eq!(told.len(), Reason::ALL.len());
        for reason in &told {
            let text = |key: &str| reason[key].as_str().unwrap();
            let row = format!("| `{}` | {} | {} |", text("reason"), text("what"), text("todo"));
            assert!(REASONS.contains(&row), "{row}");
        }
    }

    #[test]
    fn the_page_is_whole() {
        let Page { html, policy } = &*PAGE;
        assert!(html.contains("\"client_tls_alert\"") && !html.contains(REASONS_GO_HERE));
        let elements = ["<script>", "<style>"].map(|tag| WRITTEN.matches(tag).count());
        assert_eq!(elements, [1, 1], "the policy has the hash of one each");
        assert!(!within("script").is_empty() && !within("style").is_empty(), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for outside in ["http:", "https:", "//cdn", "@import", "url(", "src="] {
            // The name of SVG's namespace is no address.
            let text = WRITTEN.replace("\"http://www.w3.org/2000/svg\"", "");
            assert!(!text.contains(outside), "{outside}");
        }
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!WRITTEN.contains(markup), "{markup}");
        }
    }
}
