//! The matrix of docs/trust.md: chains, bundles and CRLs, with the answers of tlsidecar, HAProxy and nginx.
//!
//! The table of that page is the expectation. Each input is tried with each server that is installed.

mod ca;
mod inputs;
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tlsidecar::app;
use tlsidecar::config::{ClientAuth, ClientTrust, ListenerConfig};
use tlsidecar::terms::reason::Reason;
use tokio_rustls::rustls::version::TLS13;

use self::inputs::Input;
use self::peers::Peer;
use crate::support::command::has;
use crate::support::proxy::{config, listener};
use crate::support::{Authority, Backend, Device, Proxy, eventually};

/// The answer for a device that reaches the backend.
const ADMITTED: &str = "admitted";
/// The answer of a peer that does not admit a device.
const REFUSED: &str = "refused";
/// The answer of a server that does not accept the files.
const NOT_LOADED: &str = "not loaded";

/// The files of an input.
struct Files<'a> {
    dir: &'a Path,
    has_crls: bool,
}

impl Files<'_> {
    fn ca(&self) -> std::path::PathBuf {
        self.dir.join("clients.pem")
    }

    fn crl(&self) -> Option<std::path::PathBuf> {
        self.has_crls.then(|| self.dir.join("clients.crl"))
    }
}

fn write<'a>(dir: &'a Path, input: &Input) -> Files<'a> {
    let files = Files { dir, has_crls: input.crls.is_some() };
    fs::write(files.ca(), &input.cas).unwrap();
    if let Some(content) = &input.crls {
        fs::write(dir.join("clients.crl"), content).unwrap();
    }
    files
}

fn device(servers: &Authority, input: &Input) -> Device {
    let device = Device::speaking(servers, &TLS13);
    match input.chain.is_empty() {
        true => device,
        false => device.showing_in_records_of(16_000, input.chain.clone(), &input.key),
    }
}

/// Returns the answer of tlsidecar: admitted, a reason, or not loaded.
async fn ours(listener: &ListenerConfig, device: &Device) -> String {
    if app::check(&config(listener.clone())).is_err() {
        return NOT_LOADED.to_owned();
    }
    let proxy = Proxy::with(listener.clone());
    if device.echo(proxy.address).await.is_ok() {
        return ADMITTED.to_owned();
    }
    let ended = || Reason::ALL.iter().find(|&&reason| proxy.closed(reason) > 0);
    eventually("it has ended", || ended().is_some()).await;
    format!("`{}`", ended().unwrap())
}

/// Returns the rows of the table in docs/trust.md, by their first column.
fn documented() -> BTreeMap<String, Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/trust.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| input"));
    let rows = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()));
    let rows = rows.map(Iterator::collect::<Vec<_>>).filter(|row| row.len() == 5);
    rows.map(|row| (row[0].clone(), row)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_input_has_the_documented_answers() {
    if !has("openssl") {
        return;
    }
    let servers = Authority::new("servers");
    let backend = Backend::echo().await;
    let server = servers.server();
    let peers = Peer::ALL.map(|peer| has(peer.program()).then_some(peer));
    let documented = documented();
    let mut wrong = Vec::new();
    let all = inputs::all(servers.dir());
    assert_eq!(documented.len(), all.len(), "rows of docs/trust.md");
    for input in &all {
        let files = write(servers.dir(), input);
        let device = device(&servers, input);
        let mut listener = listener(backend.config(), &server);
        let crls = files.crl().into_iter().collect();
        let trust = ClientTrust { crls, ..ClientTrust::new(files.ca()) };
        listener.tls.client_auth = ClientAuth::Required(trust);
        let mut found = vec![Some(ours(&listener, &device).await)];
        for peer in peers {
            found.push(match peer {
                Some(peer) => Some(peer.answer(&files, &server, backend.address, &device).await),
                None => None,
            });
        }
        let expected = documented.get(input.name).cloned().unwrap_or_default();
        let as_expected = found.iter().enumerate().all(|(i, found)| {
            found.as_ref().is_none_or(|found| expected.get(i + 1) == Some(found))
        });
        if !as_expected {
            let found = found.iter().map(|found| found.as_deref().unwrap_or("?"));
            wrong.push(format!("| {} | {} |", input.name, found.collect::<Vec<_>>().join(" | ")));
        }
    }
    assert!(wrong.is_empty(), "docs/trust.md has other answers for\n{}", wrong.join("\n"));
}

#[test]
fn each_deviation_is_explained() {
    let verdict = |cell: &str| match cell {
        ADMITTED | NOT_LOADED => cell.to_owned(),
        _ => REFUSED.to_owned(),
    };
    for (name, row) in documented() {
        let deviates = row[2..4].iter().any(|peer| verdict(peer) != verdict(&row[1]));
        assert_eq!(deviates, !row[4].is_empty(), "{name}: {row:?}");
    }
}
