//! Comparison of all installed proxies in one run: `cargo bench --bench peers`.
//!
//! Each load runs against each proxy in turn (A B C, A B C, …), each time against a newly started process. Each
//! figure is the median of the rounds. Figures cover only the proxy's process tree, per second of its CPU time,
//! so that other load on the machine, including this program, cancels out. Wall-clock figures are listed as
//! well.
//!
//! The program prints tables in Markdown and writes `figures.json` and `chart.svg`. It names and skips proxies
//! that are not installed. No process is left running.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench fails by panicking and prints its figures"
)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

mod backend;
mod chart;
mod device;
mod limit;
mod load;
mod material;
mod peer;
mod plain_relay;
mod process;
mod report;
mod setup;
mod targets;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;

use self::backend::Backend;
use self::load::{Bench, LOADS, Load, UNAUTHENTICATED};
use self::material::Material;
use self::peer::{PEERS, Peer, Site};
use self::report::Report;

/// Measures tlsidecar side by side with other proxies.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Number of runs of each load against each proxy.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of measurement of a steady load.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Run only loads whose name contains one of these.
    #[arg(long, value_delimiter = ';', value_name = "NAME;…")]
    loads: Vec<String>,
    /// Run only proxies with these names.
    #[arg(long, value_delimiter = ';', value_name = "NAME;…")]
    peers: Vec<String>,
    /// Directory for the figures and the chart.
    #[arg(long, default_value = "target/peers", value_name = "DIR")]
    out: PathBuf,
    /// Measure only the cost of unauthenticated clients.
    #[arg(long)]
    unauthenticated: bool,
    /// Count only the TLS bytes and round trips of handshakes.
    #[arg(long)]
    wire: bool,
    /// Fail if a measured figure misses a bound of CI.
    #[arg(long)]
    judge: bool,
    /// Run as the backend (used by this program itself).
    #[arg(long, hide = true)]
    backend: bool,
    /// Run as the plain relay from this address to the one of `--to` (used by this program itself).
    #[arg(long, hide = true, requires = "to")]
    relay: Option<SocketAddr>,
    #[arg(long, hide = true)]
    to: Option<SocketAddr>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    if let (Some(listen), Some(backend)) = (args.relay, args.to) {
        plain_relay::serve(listen, backend);
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads can be started");
    if args.backend {
        runtime.block_on(backend::serve());
        return;
    }
    if args.wire {
        let table = runtime.block_on(count(&args));
        println!("{}", table.text);
        assert!(!args.judge || table.is_best, "a peer sends fewer bytes:\n{}", table.text);
        return;
    }
    let report = runtime.block_on(compare(&args));
    println!("{}", report.tables());
    println!("{}", targets::aims(&report).text);
    report.write(&args.out).expect("the output directory is writable");
    let costs = targets::unauthenticated(&report);
    println!("{}", costs.text);
    assert!(
        !args.judge || costs.all_met,
        "an unauthenticated client costs too much:\n{}",
        costs.text
    );
    let floors = targets::floors(&report);
    assert!(!args.judge || floors.all_met, "below a bound of CI:\n{}", floors.text);
}

/// Returns the proxies that the arguments name.
fn peers(args: &Args) -> impl Iterator<Item = &'static Peer> {
    let named = |peer: &&Peer| args.peers.is_empty() || args.peers.iter().any(|n| n == peer.name);
    PEERS.iter().filter(named)
}

/// Counts bytes and round trips.
async fn count(args: &Args) -> wire::Table {
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    let material = Material::make(dir.path()).expect("certificates can be created");
    let peers: Vec<_> = peers(args).filter(|peer| peer.program().is_some()).collect();
    wire::measure(&peers, &material).await
}

async fn compare(args: &Args) -> Report {
    let wanted = |names: &[String], name: &str| {
        names.is_empty() || names.iter().any(|wanted| name.contains(wanted.as_str()))
    };
    let peers: Vec<&Peer> = peers(args).collect();
    let mut report = Report::new(args.rounds);
    let peers: Vec<_> = peers.into_iter().filter(|peer| report.version_of(peer)).collect();
    let all = if args.unauthenticated { UNAUTHENTICATED } else { LOADS };
    let loads: Vec<_> = all.iter().filter(|load| wanted(&args.loads, load.name)).collect();
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    let material = Material::make(dir.path()).expect("certificates can be created");
    let backend = Backend::start().expect("this program can be started again");
    for round in 1..=args.rounds {
        for load in &loads {
            for peer in peers.iter().filter(|peer| load.suits(peer)) {
                let run = run(load, peer, &material, backend.address, args.seconds).await;
                eprintln!("round {round}, {}, {}: {}", load.name, peer.name, line(&run));
                report.add(load.name, peer.name, run.unwrap_or_default());
            }
        }
    }
    limit::add(&mut report, &loads, &material);
    report
}

/// Runs one load against one proxy, which is started and ended here.
async fn run(
    load: &Load,
    peer: &Peer,
    material: &Material,
    backend: SocketAddr,
    seconds: f64,
) -> std::io::Result<Vec<load::Figure>> {
    let site = Site { material, setup: load.setup, listen: free_port().await, backend };
    let Some((proxy, started_in)) = peer.start(&site).await else {
        return Err(std::io::Error::other("the proxy does not start"));
    };
    let time = Duration::from_secs_f64(seconds);
    load.run(&Bench { peer, proxy: &proxy, site: &site, started_in, time }).await
}

fn line(run: &std::io::Result<Vec<load::Figure>>) -> String {
    match run {
        Ok(figures) => {
            let figures = figures.iter().map(|(what, value)| format!("{value:.1} {what}"));
            figures.collect::<Vec<_>>().join(", ")
        }
        Err(error) => format!("NO FIGURE: {error}"),
    }
}

/// Returns an address for a proxy, with a port that was free just before.
async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    listener.local_addr().expect("the socket is bound")
}
