//! A name server that fails, and then has another address for a backend.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use crate::support::backend::echo;
use crate::support::command::{has, skipped};
use crate::support::process::by_shell;
use crate::support::proxy::closed_series;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, eventually, file};

/// Types of records, and a code: RFC 1035 sections 3.2.2 and 4.1.1.
const A: u16 = 1;
const SERVER_FAILURE: u8 = 2;

/// A name server for one name, on an address of its own: resolv.conf(5) has no port.
struct NameServer {
    address: Ipv4Addr,
    /// The address of every name. Without one, it reports a failure.
    has: Arc<Mutex<Option<Ipv4Addr>>>,
    task: JoinHandle<()>,
}

impl NameServer {
    async fn start() -> io::Result<Self> {
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low);
        let socket = UdpSocket::bind((address, 53)).await?;
        let has = Arc::<Mutex<Option<Ipv4Addr>>>::default();
        let answers = Arc::clone(&has);
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((read, from)) = socket.recv_from(&mut query).await {
                let answer = *answers.lock().unwrap();
                let _gone = socket.send_to(&answer_to(&query[..read], answer), from).await;
            }
        });
        Ok(Self { address, has, task })
    }

    fn answer(&self, address: Option<Ipv4Addr>) {
        *self.has.lock().unwrap() = address;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the answer to a query with one question: RFC 1035 section 4.1.
fn answer_to(query: &[u8], address: Option<Ipv4Addr>) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = &query[12..end + 5];
    let address = address.filter(|_| question.ends_with(&[&A.to_be_bytes()[..], &[0, 1]].concat()));
    let code =
        if address.is_none() && question.ends_with(&[0, 1, 0, 1]) { SERVER_FAILURE } else { 0 };
    let mut answer = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0], question].concat();
    if let Some(address) = address {
        answer[7] = 1;
        // The name of the question, an address, valid for no time.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// Starts a sidecar whose backend is a name, with a name server of its own.
fn with_names(authority: &Authority, port: u16, names: &NameServer) -> Sidecar {
    let resolver: PathBuf = authority.dir().join("resolv.conf");
    let options = "options timeout:1 attempts:1";
    std::fs::write(&resolver, format!("nameserver {}\n{options}\n", names.address)).unwrap();
    let unused = SocketAddr::from(([127, 0, 0, 1], port));
    let more = "timeouts.connect = \"300ms\"\n";
    let text = file::text(unused, &authority.server(), more);
    let text = text.replace(&unused.to_string(), &format!("broker.plant.example.:{port}"));
    let mount = format!("mount --bind {} /etc/resolv.conf", resolver.display());
    let mut command =
        by_shell(&format!("exec unshare --mount sh -c '{mount} && exec \"$@\"' sh \"$@\""));
    command.arg("--config").arg(file::write(authority.dir(), &text));
    Sidecar::run(command)
}

/// Binds a port on two addresses of this machine.
async fn two_listeners() -> (TcpListener, TcpListener) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
            return (first, second);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_fails_and_then_has_another_address_leads_to_the_other_backend() {
    if !has("unshare") {
        return;
    }
    let Ok(names) = NameServer::start().await else {
        skipped("port 53 cannot be bound: not root");
        return;
    };
    let (first, second) = two_listeners().await;
    let port = first.local_addr().unwrap().port();
    let address = |listener: &TcpListener| match listener.local_addr().unwrap().ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let (old, new) = (address(&first), address(&second));
    let (first, second) = (Backend::on(first, echo), Backend::on(second, echo));
    let authority = Authority::new("ca");
    let sidecar = with_names(&authority, port, &names);
    let device = Device::new(&authority);
    let closed = |reason| sidecar.count(&closed_series(reason));
    let failing =
        || sidecar.count("tlsidecar_backend_name_failing{name=\"broker.plant.example.\"}");
    // It fails from the start.
    let mut refused = device.connect(sidecar.address).await.unwrap();
    assert_eq!(within("the end", refused.read(&mut [0; 1])).await.unwrap(), 0);
    eventually("it is counted", || closed(Reason::BackendUnreachable) == 1).await;
    assert_eq!(failing(), 1);
    names.answer(old);
    eventually("it resolves", || failing() == 0).await;
    device.echo(sidecar.address).await.unwrap();
    assert_eq!((first.connections(), second.connections()), (1, 0));
    // It fails again, and the backend moves.
    names.answer(None);
    first.end().await;
    // A failed connect looks the name up, unless that was done within a second.
    while failing() == 0 {
        let mut refused = device.connect(sidecar.address).await.unwrap();
        assert_eq!(within("the end", refused.read(&mut [0; 1])).await.unwrap(), 0);
    }
    assert!(closed(Reason::BackendRefused) > 0, "the last address is tried");
    names.answer(new);
    eventually("it resolves", || failing() == 0).await;
    device.echo(sidecar.address).await.unwrap();
    assert_eq!(second.connections(), 1);
}
