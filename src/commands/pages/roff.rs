//! The markup of manual pages (man(7)).
//!
//! **Not here.** The options, which clap_mangen writes.

/// Returns text in which no character is markup. groff sets "-" as a hyphen, "\\-" as the minus sign that is typed
/// (groff_char(7)).
pub(super) fn escaped(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// Returns a section with these paragraphs, each under its heading.
pub(super) fn section(title: &str, paragraphs: &[(&str, &str)]) -> String {
    let each = |(heading, text): &(&str, &str)| {
        format!(".TP\n\\fB{}\\fR\n{}\n", escaped(heading), escaped(text))
    };
    format!(".SH \"{title}\"\n{}", paragraphs.iter().map(each).collect::<String>())
}
