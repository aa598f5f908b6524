//! A real browser: Debian's Chromium, without a window, and without a network but this machine's loopback.

use std::path::Path;
use std::process::Command;

use super::command::run;

/// What a page has become after a few seconds of its own time.
pub(crate) struct Rendered {
    /// The document, without what its scripts and styles say.
    pub(crate) dom: String,
    /// What was said on the console.
    pub(crate) console: String,
}

/// Opens a page and lets so many milliseconds of its time pass.
pub(crate) async fn open(url: &str, milliseconds: u32) -> Rendered {
    let mut command = chromium(milliseconds);
    command.args(["--enable-logging=stderr", "--dump-dom", url]);
    // Both streams come as one text: the document first.
    let (content, text) = run(command).await;
    assert!(content, "{text}");
    let (dom, log) = text.rsplit_once("</html>").unwrap_or_else(|| panic!("no document:\n{text}"));
    let console =
        log.lines().filter(|line| line.contains("CONSOLE")).map(|line| format!("{line}\n"));
    Rendered { dom: without(&without(dom, "script"), "style"), console: console.collect() }
}

/// Draws a page, light or dark.
pub(crate) async fn draw(url: &str, dark: bool, size: (u32, u32), into: &Path) {
    let mut command = chromium(3000);
    command.args([
        format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)),
        format!("--window-size={},{}", size.0, size.1),
        format!("--screenshot={}", into.display()),
        "--hide-scrollbars".to_owned(),
        url.to_owned(),
    ]);
    let (content, text) = run(command).await;
    assert!(content && into.exists(), "{text}");
}

fn chromium(milliseconds: u32) -> Command {
    // A directory of its own, which is gone when its user is. No D-Bus, no other machine.
    let script = "dir=$(mktemp -d) && trap 'rm -rf \"$dir\"' EXIT && \
        timeout --kill-after=2 60 chromium --user-data-dir=\"$dir\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", "--headless", "--no-sandbox", "--disable-gpu"]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]);
    command.args(["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
    command.arg(format!("--virtual-time-budget={milliseconds}"));
    command
}

/// The text without elements of this kind.
fn without(html: &str, tag: &str) -> String {
    let (start, end) = (format!("<{tag}"), format!("</{tag}>"));
    let mut parts = html.split(&start);
    let first = parts.next().unwrap_or_default().to_owned();
    let after = parts.map(|part| part.split_once(&end).map_or("", |(_, rest)| rest));
    first + &after.collect::<String>()
}

/// What a reader sees of HTML: its text, one space where tags are.
pub(crate) fn text(html: &str) -> String {
    let mut text = String::new();
    for part in html.split('<').enumerate() {
        match part {
            (0, before) => text.push_str(before),
            (_, tag) => {
                text.push(' ');
                text.push_str(tag.split_once('>').map_or("", |(_, after)| after));
            }
        }
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
