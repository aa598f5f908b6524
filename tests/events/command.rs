//! `tlsidecar events`: the events on the command line, over lost connections and restarts.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{fleet, visit};
use crate::support::command::Running;
use crate::support::process::binary;
use crate::support::raw::{answer_to, answering};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, eventually, file};

/// A running `tlsidecar events`.
struct Following {
    child: Running,
    out: Lines,
    err: Lines,
}

/// The lines of an output until now.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let read = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                read.0.lock().unwrap().push(line);
            }
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn has(&self, part: &str) -> bool {
        self.all().iter().any(|line| line.contains(part))
    }
}

impl Following {
    /// Starts the command at this admin port.
    fn start(admin: &str, arguments: &[&str]) -> Self {
        let mut command = binary();
        command.args(["events", "--admin", admin]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child: Running(child), out: Lines::of(out), err: Lines::of(err) }
    }

    /// Waits for an event that has this part.
    async fn until(&self, part: &str) {
        eventually(part, || self.out.has(part)).await;
    }

    /// Waits for its end, and returns its exit code.
    async fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("it has ended", || {
            code = self.child.0.try_wait().unwrap();
            code.is_some()
        })
        .await;
        code.unwrap().code()
    }
}

/// A network between the command and an admin port, which can be cut.
struct Network {
    address: SocketAddr,
    is_up: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Network {
    async fn to(admin: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_up, state) = watch::channel(true);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if *state.borrow() {
                        let mut server = TcpStream::connect(admin).await.unwrap();
                        let relay = tokio::io::copy_bidirectional(&mut client, &mut server);
                        tokio::select! {
                            _ended = relay => {}
                            _cut = state.wait_for(|is_up| !is_up) => {}
                        }
                    }
                });
            }
        });
        Self { address, is_up, task }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_a_line_in_words_or_in_json_and_a_signal_is_a_success() {
    let fleet = fleet().await;
    let admin = fleet.admin().to_string();
    let selection = ["--identity", "pump-*", "--kind", "opened,closed"];
    let mut text = Following::start(&admin, &[&selection[..], &["--since", "0"]].concat());
    let mut json =
        Following::start(&admin, &[&selection[..], &["--since", "0", "--output", "json"]].concat());
    // Both read: what was before is reported as lost, since nothing was recorded.
    text.until("events may be missing here").await;
    json.until("\"lost\"").await;
    visit(&fleet, "sensor-1", 0).await;
    visit(&fleet, "pump-7", 1).await;
    text.until(" closed (").await;
    json.until("\"closed\"").await;
    for (following, signal) in [(&mut text, "TERM"), (&mut json, "INT")] {
        following.child.signal(signal);
        assert_eq!(following.ended().await, Some(0), "{:?}", following.err.all());
    }
    let lines = text.out.all();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[1].contains("Z session ")
            && lines[1].contains(" of listener test opened: pump-7 at 127.0.0.1:")
    );
    assert!(lines[2].contains(", 4 bytes to the backend, 4 to the client"), "{lines:?}");
    let events: Vec<Value> =
        json.out.all().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(super::kinds(&events), ["lost", "opened", "closed"]);
    assert_eq!(events[2]["identity"], "pump-7");
    let last = format!("--since {} continues", events[2]["number"]);
    eventually("the last number", || text.err.has(&last) && json.err.has(&last)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_after_a_cut_and_more_than_is_kept_is_reported_as_lost() {
    let fleet = fleet().await;
    let network = Network::to(fleet.admin()).await;
    let admin = network.address.to_string();
    let mut events = Following::start(&admin, &["--output", "json", "--kind", "opened,refused"]);
    within("an event", async {
        while !events.out.has("refused") {
            answer_to(fleet.proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
        }
    })
    .await;
    network.is_up.send_replace(false);
    eventually("the cut is reported", || events.err.has("connection lost")).await;
    visit(&fleet, "pump-7", 0).await;
    network.is_up.send_replace(true);
    events.until("pump-7").await;
    assert!(
        events.err.has("connected again") && !events.out.has("\"lost\""),
        "{:?}",
        events.out.all()
    );
    network.is_up.send_replace(false);
    eventually("the second cut", || {
        events.err.all().iter().filter(|line| line.contains("connection lost")).count() == 2
    })
    .await;
    for _ in 0..1030 {
        answer_to(fleet.proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
    }
    network.is_up.send_replace(true);
    events.until("\"lost\"").await;
    let lost = events.out.all().into_iter().find(|line| line.contains("\"lost\"")).unwrap();
    let lost: Value = serde_json::from_str(&lost).unwrap();
    assert!(lost["count"].as_u64().is_some_and(|count| count > 0), "{lost}");
    events.child.signal("INT");
    assert_eq!(events.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_the_next_process_on_the_same_socket() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let socket = authority.dir().join("admin.sock");
    let text = file::text(backend.address, &authority.server(), "");
    let text = text.replace("[admin]\n", &format!("[admin]\nsocket = {socket:?}\n"));
    let sidecar = Sidecar::start(authority.dir(), &text);
    let events =
        Following::start(&format!("unix:{}", socket.display()), &["--kind", "opened,drain"]);
    let device = Device::new(&authority);
    within("an event", async {
        while !events.out.has(" opened: ") {
            drop(device.echo(sidecar.address).await.unwrap());
        }
    })
    .await;
    // Without a drain.
    drop(sidecar);
    eventually("the end is reported", || events.err.has("connection lost")).await;
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let missing = || events.out.all().iter().filter(|line| line.contains("missing")).count();
    events.until("events may be missing here").await;
    sidecar.signal("TERM");
    assert!(sidecar.ended().success());
    events.until("drain: drained").await;
    eventually("the drain is reported", || events.err.has("waiting for another one")).await;
    let sidecar = Sidecar::start(authority.dir(), &text);
    assert_eq!(missing(), 1, "{:?}", events.out.all());
    eventually("it reads the third one", || missing() == 2).await;
    let before = events.out.all().len();
    drop(device.echo(sidecar.address).await.unwrap());
    eventually("its event", || events.out.all().len() > before).await;
    assert_eq!(missing(), 2, "{:?}", events.out.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_by_itself_after_its_time_and_when_the_reader_of_its_output_has_left() {
    let fleet = fleet().await;
    let admin = fleet.admin().to_string();
    let mut timed = Following::start(&admin, &["--for", "1s"]);
    assert_eq!(timed.ended().await, Some(0), "{:?}", timed.err.all());
    let mut left = binary();
    left.args(["events", "--since", "0", "--admin", &admin]).stderr(Stdio::piped());
    let mut child = Running(left.stdout(Stdio::piped()).spawn().unwrap());
    drop(child.0.stdout.take());
    let err = Lines::of(child.0.stderr.take().unwrap());
    let mut ended = None;
    within("its end", async {
        while ended.is_none() {
            visit(&fleet, "pump-7", 0).await;
            ended = child.0.try_wait().unwrap();
        }
    })
    .await;
    assert_eq!(ended.unwrap().code(), Some(0));
    let first = super::read(&fleet, "?since=0", "").await.first().await;
    let unwritten = format!("--since {} continues", first["number"].as_u64().unwrap() - 1);
    eventually("the first event is still to come", || err.has(&unwritten)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_gone_at_the_end_is_a_failure_with_the_number_that_continues() {
    let fleet = fleet().await;
    let network = Network::to(fleet.admin()).await;
    let admin = network.address.to_string();
    let mut events = Following::start(&admin, &["--since", "0", "--for", "4s", "--kind", "lost"]);
    events.until("events may be missing here").await;
    network.is_up.send_replace(false);
    assert_eq!(events.ended().await, Some(1));
    eventually("both lines", || events.err.has("does not answer") && events.err.has(" continues"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_drain_is_known_also_without_its_events_and_an_end_without_one_is_a_loss() {
    let fleet = fleet().await;
    let mut events =
        Following::start(&fleet.admin().to_string(), &["--kind", "reload,lost", "--since", "0"]);
    events.until("events may be missing here").await;
    fleet.proxy.app.shutdown.drain();
    eventually("the drain", || events.err.has("the process has drained")).await;
    events.child.signal("INT");
    assert_eq!(events.ended().await, Some(0));
    // Some other server, whose answers have an orderly end.
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nid: 7\n: events\n\n: .\n";
    let server = answering(move |_| answer.to_owned()).await;
    let mut lost = Following::start(&server.to_string(), &["--for", "3s"]);
    eventually("the loss", || lost.err.has("it has ended without a drain")).await;
    assert!(!lost.err.has("drained"), "{:?}", lost.err.all());
    lost.ended().await;
    eventually("the number", || lost.err.has("--since 7 continues")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_port_that_cannot_be_read_is_a_failure() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let token = authority.dir().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let text = file::text(backend.address, &authority.server(), "");
    let text = text.replace("[admin]\n", &format!("[admin]\ntoken_file = {token:?}\n"));
    let sidecar = Sidecar::start(authority.dir(), &text);
    let admin = sidecar.admin.to_string();
    let mut without = Following::start(&admin, &["--for", "9s"]);
    assert_eq!(without.ended().await, Some(1));
    eventually("401", || without.err.has("401")).await;
    let mut wrong = Following::start(&admin, &["--kind", "nosuch"]);
    assert_eq!(wrong.ended().await, Some(2));
    let path = token.display().to_string();
    let mut with = Following::start(&admin, &["--for", "1s", "--token-file", &path]);
    assert_eq!(with.ended().await, Some(0), "{:?}", with.err.all());
    drop(sidecar);
    let mut gone = Following::start(&admin, &[]);
    assert_eq!(gone.ended().await, Some(1));
}
