//! The manual page of the configuration file: `tlsidecar.toml(5)`.
//!
//! **Not here.** The keys (`keys.rs`).

use super::keys::{self, Key, Section};
use super::roff::escaped;

const HEAD: &str = "\
.TH tlsidecar.toml 5
.SH NAME
tlsidecar.toml \\- the configuration of tlsidecar
.SH DESCRIPTION
The file is TOML. Of each key the default is shown or, where it has none, an example. \\fBtlsidecar check\\fR \
reports every problem of a file, with its place, the value found and the values allowed. Relative paths are relative \
to the file. Durations have units: 500ms, 30s, 5m, 1h 30m, 1day. Sizes have units: 512B, 32KiB, 1MiB.
.PP
Paths and addresses can contain variables of the environment, as ${NAME}. A variable that is not set is a problem. \
$$ stands for $.
.PP
A reload (SIGHUP, \\fBtlsidecar reload\\fR, or a change of a file) applies everything except addresses to listen on, \
new and removed listeners, and a few keys of the process, which it reports.
.SH KEYS
";

const TAIL: &str = "\
.SH EXAMPLE
.EX
[[listener]]
name = \"mqtt\"
listen = \"0.0.0.0:8883\"
backend = \"127.0.0.1:1883\"
tls.certificates = [{ cert = \"tls.crt\", key = \"tls.key\" }]
.EE
.SH \"SEE ALSO\"
\\fBtlsidecar\\fR(1), \\fBtlsidecar\\-check\\fR(1)
";

/// Returns the page.
pub(super) fn page() -> String {
    let sections = keys::sections();
    format!("{HEAD}{}{TAIL}", sections.iter().map(section).collect::<String>())
}

fn section(Section { heading, text, keys }: &Section) -> String {
    let keys: String = keys.iter().map(key).collect();
    format!(".SS {}\n{}\n{keys}", escaped(heading), escaped(text))
}

fn key(Key { name, value, has_default, text }: &Key) -> String {
    let (name, value, text) = (escaped(name), escaped(value), escaped(text));
    let example = if *has_default { "" } else { " (an example)" };
    format!(".TP\n\\fB{name}\\fR = {value}{example}\n{text}\n")
}
