//! The matrix of docs/devices.md: stack by scenario, with the versions and server keys that work.
//!
//! The table of that page is the expectation. Each stack that is installed goes through every scenario.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tlsidecar::config::{ClientAuth, ClientTrust};
use tlsidecar::terms::labels::ReloadOutcome;
use tokio::task::JoinSet;

use super::scenario::{self, Device, HALF_CLOSE, SCENARIOS, Scenario};
use super::stack::{BOTH, Build, Program, Row, Stack, TLS12};
use crate::support::certs::Wish;
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Pair, Proxy, eventually};

const OPENSSL: Stack = Stack {
    build: Build::Library {
        source: "openssl",
        package: "libssl-dev",
        flags: &["-lssl", "-lcrypto"],
    },
    versions: BOTH,
    rows: &[Row { name: "OpenSSL 3.0", buffer: 0 }],
    lacks: &[],
};

const MBEDTLS: Stack = Stack {
    build: Build::Library {
        source: "mbedtls",
        package: "libmbedtls-dev",
        flags: &["-lmbedtls", "-lmbedx509", "-lmbedcrypto"],
    },
    versions: TLS12,
    rows: &[Row { name: "mbedTLS 2.28", buffer: 0 }],
    lacks: &[],
};

const SMALL_MBEDTLS: Stack = Stack {
    build: Build::Mbedtls { package: "mbedtls-sys-auto@2.28.15", directory: "vendor" },
    versions: TLS12,
    rows: &[
        Row { name: "mbedTLS 2.28, 4,096 bytes", buffer: 4096 },
        Row { name: "mbedTLS 2.28, 2,048 bytes", buffer: 2048 },
    ],
    lacks: &[],
};

const MBEDTLS_3: Stack = Stack {
    build: Build::Mbedtls { package: "mbedtls-rs-sys@0.3.1", directory: "mbedtls" },
    versions: BOTH,
    rows: &[
        Row { name: "mbedTLS 3.6", buffer: 0 },
        Row { name: "mbedTLS 3.6, 4,096 bytes", buffer: 4096 },
        Row { name: "mbedTLS 3.6, 2,048 bytes", buffer: 2048 },
    ],
    lacks: &[],
};

const WOLFSSL: Stack = Stack {
    build: Build::Library { source: "wolfssl", package: "libwolfssl-dev", flags: &["-lwolfssl"] },
    versions: BOTH,
    rows: &[Row { name: "wolfSSL 5.5", buffer: 0 }],
    lacks: &[],
};

const BEARSSL: Stack = Stack {
    build: Build::Library { source: "bearssl", package: "libbearssl-dev", flags: &["-lbearssl"] },
    versions: TLS12,
    rows: &[
        Row { name: "BearSSL 0.6", buffer: 0 },
        Row { name: "BearSSL 0.6, 4,096 bytes", buffer: 4096 },
        Row { name: "BearSSL 0.6, 2,048 bytes", buffer: 2048 },
        Row { name: "BearSSL 0.6, 1,024 bytes", buffer: 1024 },
        Row { name: "BearSSL 0.6, 512 bytes", buffer: 512 },
    ],
    // It drops what arrives after its own close_notify.
    lacks: &[HALF_CLOSE],
};

const GNUTLS: Stack = Stack {
    build: Build::Library { source: "gnutls", package: "libgnutls28-dev", flags: &["-lgnutls"] },
    versions: BOTH,
    rows: &[
        Row { name: "GnuTLS 3.7", buffer: 0 },
        Row { name: "GnuTLS 3.7, 4,096 bytes", buffer: 4096 },
        Row { name: "GnuTLS 3.7, 512 bytes", buffer: 512 },
    ],
    lacks: &[],
};

const NSS: Stack = Stack {
    build: Build::Library {
        source: "nss",
        package: "libnss3-dev",
        flags: &["-I/usr/include/nss", "-I/usr/include/nspr", "-lssl3", "-lnss3", "-lnspr4"],
    },
    versions: BOTH,
    rows: &[
        Row { name: "NSS 3.87", buffer: 0 },
        Row { name: "NSS 3.87, 4,096 bytes", buffer: 4096 },
    ],
    lacks: &[],
};

const JSSE: Stack = Stack {
    build: Build::Java,
    versions: BOTH,
    rows: &[Row { name: "JSSE of OpenJDK 17", buffer: 0 }],
    lacks: &[],
};

const GO: Stack = Stack {
    build: Build::Go,
    versions: BOTH,
    rows: &[Row { name: "Go 1.19", buffer: 0 }],
    lacks: &[],
};

/// A cell without a call of the stack for its scenario.
const LACKS: &str = "–";

/// Server keys, as they are named in the matrix.
const KEYS: [&str; 2] = ["ECDSA", "RSA"];

/// Two sidecars with the same server certificate, one of which requires certificates of devices.
struct Site {
    authority: Authority,
    plants: Authority,
    own: Pair,
    open: Proxy,
    closed: Proxy,
    rsa: bool,
}

impl Site {
    fn new(backend: &Backend, key: &str) -> Self {
        let authority = Authority::new("root");
        let plants = authority.intermediate("plants");
        let rsa = key == "RSA";
        let server = plants.issue("server", &Wish { rsa, ..Wish::default() });
        // NSS refuses two certificates of one issuer with one serial number.
        let wish = Wish { rsa, serial: 7, ..Wish::of_device(&["pump-7"]) };
        let own = plants.issue("device", &wish);
        let mut closed = listener(backend.config(), &server);
        closed.tls.client_auth = ClientAuth::Required(ClientTrust::new(authority.ca()));
        let open = Proxy::start(backend.config(), &server);
        Self { open, closed: Proxy::with(closed), authority, plants, own, rsa }
    }

    /// Runs a scenario with a device of this version.
    async fn run(&self, scenario: &Scenario, device: &Device<'_>) -> Result<(), String> {
        let proxy = if scenario.certificate { &self.closed } else { &self.open };
        let reload = async || {
            let before = self.open.reloads(ReloadOutcome::Swapped);
            self.plants.issue("server", &Wish { rsa: self.rsa, serial: 2, ..Wish::default() });
            let is_loaded = || self.open.reloads(ReloadOutcome::Swapped) > before;
            eventually("the certificate is reloaded", is_loaded).await;
        };
        scenario.run(device, proxy, reload).await
    }
}

/// Runs all scenarios of one row with one version and one server key. Returns the failures, by scenario.
async fn run_all(
    program: &Program,
    row: &Row,
    lacks: &[&str],
    version: &str,
    key: &str,
) -> BTreeMap<&'static str, String> {
    let backend = scenario::legacy_server().await;
    let site = Site::new(&backend, key);
    let ca = site.authority.ca();
    let device = Device { program, ca: &ca, own: &site.own, version, buffer: row.buffer };
    let mut failures = BTreeMap::new();
    for scenario in SCENARIOS.iter().filter(|scenario| !lacks.contains(&scenario.name)) {
        if let Err(failure) = site.run(scenario, &device).await {
            failures.insert(scenario.name, format!("{} {key}: {failure}", row.name));
        }
    }
    failures
}

/// Results of a row, by version and server key.
type Results = BTreeMap<(&'static str, &'static str), BTreeMap<&'static str, String>>;

/// Returns a line of the matrix.
fn line(stack: &Stack, row: &Row, results: &Results) -> String {
    let cells = SCENARIOS.iter().map(|scenario| {
        if stack.lacks.contains(&scenario.name) {
            return LACKS.to_owned();
        }
        let works = |version, key| !results[&(version, key)].contains_key(scenario.name);
        let (mut fine, mut bad) = (Vec::new(), Vec::new());
        for &version in stack.versions {
            match KEYS.map(|key| works(version, key)) {
                [true, true] => fine.push(version.to_owned()),
                [true, false] => fine.push(format!("{version} with ECDSA")),
                [false, true] => fine.push(format!("{version} with RSA")),
                [false, false] => bad.push(format!("**not {version}**")),
            }
        }
        [fine, bad].concat().join(", ")
    });
    format!("| {} | {} |", row.name, cells.collect::<Vec<_>>().join(" | "))
}

/// Runs a stack, and compares its rows with the page.
async fn compare(stack: &'static Stack) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/devices.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut wrong = Vec::new();
    for row in stack.rows {
        let Some(program) = stack.compile(row) else { return };
        let program = Arc::new(program);
        let mut runs = JoinSet::new();
        for &version in stack.versions {
            for key in KEYS {
                let program = Arc::clone(&program);
                let run = async move { run_all(&program, row, stack.lacks, version, key).await };
                runs.spawn(async move { ((version, key), run.await) });
            }
        }
        let results: Results = runs.join_all().await.into_iter().collect();
        let line = line(stack, row, &results);
        if !page.lines().any(|found| found == line) {
            wrong.push(line);
            wrong.extend(results.into_values().flat_map(BTreeMap::into_values));
        }
    }
    assert!(wrong.is_empty(), "docs/devices.md has other rows:\n{}", wrong.join("\n"));
}

/// Makes a test of each stack.
macro_rules! stacks {
    ($($test:ident: $stack:ident;)*) => {
        const STACKS: &[Stack] = &[$($stack),*];

        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            compare(&$stack).await;
        })*
    };
}

stacks! {
    openssl_devices_do_as_documented: OPENSSL;
    mbedtls_devices_do_as_documented: MBEDTLS;
    mbedtls_devices_with_small_buffers_do_as_documented: SMALL_MBEDTLS;
    mbedtls_3_devices_do_as_documented: MBEDTLS_3;
    wolfssl_devices_do_as_documented: WOLFSSL;
    bearssl_devices_do_as_documented: BEARSSL;
    gnutls_devices_do_as_documented: GNUTLS;
    nss_devices_do_as_documented: NSS;
    jsse_devices_do_as_documented: JSSE;
    go_devices_do_as_documented: GO;
}

#[test]
fn the_documented_matrix_has_the_rows_of_all_stacks_and_no_others() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/devices.md");
    let page = std::fs::read_to_string(page).unwrap();
    let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    let head = format!("| device | {} |", names.join(" | "));
    let table = page.lines().skip_while(|line| *line != head).skip(2);
    let table = table.take_while(|line| line.starts_with('|'));
    let documented: Vec<_> = table.filter_map(|line| line.split(" | ").next()).collect();
    let rows = STACKS.iter().flat_map(|stack| stack.rows).map(|row| format!("| {}", row.name));
    assert_eq!(documented, rows.collect::<Vec<_>>());
}
