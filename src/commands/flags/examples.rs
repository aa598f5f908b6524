//! Examples of the command line: in the help texts and in the manual pages.
//!
//! **Promises.** Each of them is a valid command line. Each command has one.
//!
//! **Not here.** Their format in the manual (`commands/pages.rs`).

/// A purpose and its command line.
pub type Example = (&'static str, &'static str);

/// Returns the examples of a command; those of a run for the program itself.
#[must_use]
pub fn of(command: &str) -> &'static [Example] {
    match command {
        "tlsidecar" => RUN,
        "check" => CHECK,
        "probe" => PROBE,
        "drain" => &[
            ("In a preStop hook", "tlsidecar drain"),
            ("Wait for its end, at most a minute", "tlsidecar drain --wait --timeout 60s"),
        ],
        "sessions" => &[
            ("The sessions of a device", "tlsidecar sessions --identity pump-7.plant"),
            ("End them", "tlsidecar sessions --identity pump-7.plant --end"),
        ],
        "top" => &[("The devices with the most failures", "tlsidecar top")],
        "events" => &[
            ("One device", "tlsidecar events --identity pump-7.plant"),
            (
                "All refused connections of an hour, for a program",
                "tlsidecar events --kind refused --for 1h --output json",
            ),
            (
                "From the oldest event that is kept",
                "tlsidecar events --since 0 --admin unix:/run/tlsidecar/admin.sock",
            ),
        ],
        "trace" => &[
            ("Each step of one device's connections", "tlsidecar trace --identity pump-7.plant"),
            (
                "With the secrets for Wireshark",
                "tlsidecar trace --peer 192.0.2.7 --admin unix:/run/tlsidecar/admin.sock --keylog keys",
            ),
            (
                "A capture that Wireshark decrypts",
                "tlsidecar trace --peer 192.0.2.7 --admin unix:/run/tlsidecar/admin.sock --pcap pump-7.pcapng --pcap-secrets",
            ),
        ],
        "status" => &[
            ("On a Unix socket", "tlsidecar status --admin unix:/run/tlsidecar/admin.sock"),
            ("For a program", "tlsidecar status --json"),
        ],
        "reload" => &[
            ("Read all files again", "tlsidecar reload"),
            ("End a certificate rollout", "tlsidecar reload --promote --listener mqtt"),
        ],
        "demo" => &[("Development certificates and an echo server", "tlsidecar demo")],
        "completions" => &[("For bash", "tlsidecar completions bash")],
        "man" => &[("Write all pages", "tlsidecar man --dir man")],
        _ => &[],
    }
}

const RUN: &[Example] = &[
    ("Run on a configuration file", "tlsidecar --config tlsidecar.toml"),
    (
        "Run one listener",
        "tlsidecar --listen :8883 --backend 127.0.0.1:1883 --cert server.crt --key server.key",
    ),
    ("Check a configuration first", "tlsidecar check tlsidecar.toml"),
];

const CHECK: &[Example] = &[
    ("Check a file and all files that it names", "tlsidecar check tlsidecar.toml"),
    (
        "In a pipeline, where a warning is a failure",
        "tlsidecar check --strict --output json tlsidecar.toml",
    ),
    (
        "Check a container's configuration on a laptop",
        "tlsidecar check --root rootfs tlsidecar.toml",
    ),
    (
        "Name the connected devices that a reload with it would end or refuse",
        "tlsidecar check candidate.toml --live unix:/run/tlsidecar/admin.sock",
    ),
];

const PROBE: &[Example] = &[
    ("Connect as a device would", "tlsidecar probe localhost:8883 --ca ca.crt"),
    (
        "Send a client certificate",
        "tlsidecar probe localhost:8883 --ca ca.crt --cert pump-7.crt --key pump-7.key",
    ),
    ("A container's health command", "tlsidecar probe --live"),
];

/// Returns the end of a help text.
pub(super) fn help(command: &str) -> String {
    let lines = of(command).iter().map(|(purpose, line)| format!("\n  {purpose}:\n    {line}"));
    let lines = lines.collect::<String>();
    if lines.is_empty() { lines } else { format!("Examples:{lines}") }
}
