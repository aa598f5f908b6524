//! A real browser: Debian's Chromium, headless, with no network except loopback.

use std::path::Path;
use std::process::Command;

use super::command::run;

/// A page after some seconds of its virtual time.
pub(crate) struct Rendered {
    /// The document without the text of its scripts and styles.
    pub(crate) dom: String,
    /// The messages on the console.
    pub(crate) console: String,
}

/// Opens a page and lets so many milliseconds of its virtual time pass.
pub(crate) async fn open(url: &str, milliseconds: u32) -> Rendered {
    let mut command = chromium(milliseconds);
    command.args(["--enable-logging=stderr", "--dump-dom", url]);
    // Both streams are one text, with the document first.
    let (good, text) = run(command).await;
    assert!(good, "{text}");
    let (dom, log) = text.rsplit_once("</html>").unwrap_or_else(|| panic!("no document:\n{text}"));
    let console =
        log.lines().filter(|line| line.contains("CONSOLE")).map(|line| format!("{line}\n"));
    Rendered { dom: without(&without(dom, "script"), "style"), console: console.collect() }
}

/// Saves a picture of a page, in the light or the dark colours.
pub(crate) async fn draw(url: &str, dark: bool, size: (u32, u32), into: &Path) {
    let mut command = chromium(3000);
    command.args([
        format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)),
        format!("--window-size={},{}", size.0, size.1),
        format!("--screenshot={}", into.display()),
        "--hide-scrollbars".to_owned(),
        url.to_owned(),
    ]);
    let (good, text) = run(command).await;
    assert!(good && into.exists(), "{text}");
}

fn chromium(milliseconds: u32) -> Command {
    // A temporary profile that is removed afterwards. No D-Bus, no other machine.
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

/// Returns the document without elements of this kind.
fn without(html: &str, tag: &str) -> String {
    let (start, end) = (format!("<{tag}"), format!("</{tag}>"));
    let mut parts = html.split(&start);
    let first = parts.next().unwrap_or_default().to_owned();
    let after = parts.map(|part| part.split_once(&end).map_or("", |(_, rest)| rest));
    first + &after.collect::<String>()
}

/// Returns the visible text of HTML, with one space for each tag.
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
