//! Machines without IPv6, where `[::]` means all addresses of IPv4.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::backend::echo;
use crate::support::command::{has, output};
use crate::support::network::{Link, Network};
use crate::support::process::{binary, by_shell};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, file};

/// Runs a program with a filter of system calls (seccomp(2)) by which socket(2) has no AF_INET6, as with the kernel's flag
/// `ipv6.disable=1` or systemd's `RestrictAddressFamilies=`.
const WITHOUT_IPV6: &str = "
import ctypes, errno, os, socket, sys
LOAD, EQUAL, RETURN, NUMBER, FAMILY, ALLOW, FAIL = 0x20, 0x15, 0x06, 0, 16, 0x7fff0000, 0x00050000
SOCKET = 41 if os.uname().machine == 'x86_64' else 198
class Step(ctypes.Structure):
    _fields_ = [('code', ctypes.c_ushort), ('jt', ctypes.c_ubyte), ('jf', ctypes.c_ubyte), ('k', ctypes.c_uint)]
class Filter(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('steps', ctypes.POINTER(Step))]
steps = [(LOAD, 0, 0, NUMBER), (EQUAL, 0, 3, SOCKET), (LOAD, 0, 0, FAMILY), (EQUAL, 0, 1, int(socket.AF_INET6)),
         (RETURN, 0, 0, FAIL | errno.EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
steps = (Step * len(steps))(*[Step(*step) for step in steps])
libc = ctypes.CDLL(None)
# PR_SET_NO_NEW_PRIVS, and PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(len(steps), steps)), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

/// Returns a configuration whose listener has the address `[::]`.
fn on_all_addresses(authority: &Authority, backend: SocketAddr) -> String {
    let text = file::text(backend, &authority.server(), "");
    let own = "name = \"test\"\nlisten = \"127.0.0.1:0\"";
    assert!(text.contains(own));
    text.replace(own, "name = \"test\"\nlisten = \"[::]:0\"")
}

/// Returns the address of the device in the log line of its session.
fn peer(sidecar: &mut Sidecar) -> IpAddr {
    sidecar.until("the session is logged", |log| log.contains("reason=\"ok\""));
    let log = sidecar.log();
    let line = log.lines().find(|line| line.contains("reason=\"ok\"")).unwrap();
    let peer = line.split("peer=").nth(1).unwrap().split(' ').next().unwrap();
    peer.parse::<SocketAddr>().unwrap().ip()
}

/// Connects a device and ends its session in order.
async fn visit(device: &Device, address: SocketAddr) {
    let mut session = device.echo(address).await.unwrap();
    session.shutdown().await.unwrap();
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ipv6_in_the_kernel_all_addresses_are_those_of_ipv4() {
    if !has("python3") {
        return;
    }
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let text = on_all_addresses(&authority, backend.address);
    let text = text.replace("[admin]\nlisten = \"127.0.0.1:0\"", "[admin]\nlisten = \"[::]:0\"");
    let mut command = by_shell("exec python3 -c \"$FILTER\" \"$@\"");
    command.env("FILTER", WITHOUT_IPV6).arg("--config").arg(file::write(authority.dir(), &text));
    let mut sidecar = Sidecar::run(command);
    assert_eq!(sidecar.address.ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    visit(&Device::new(&authority), sidecar.address).await;
    assert_eq!(peer(&mut sidecar), IpAddr::V4(Ipv4Addr::LOCALHOST));
    // The admin port too, also for a command that is given the address of the configuration.
    assert_eq!(sidecar.admin.ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut status = binary();
    status.args(["status", "--admin", &format!("[::]:{}", sidecar.admin.port())]);
    let (code, lines, errors) = output(&mut status);
    assert!(code == 0 && lines.contains("0.0.0.0:"), "{lines}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ipv6_disabled_by_sysctl_all_addresses_accept_devices_of_ipv4() {
    let Some(network) = Network::new() else { return };
    let authority = Authority::new("ca");
    let listener = TcpListener::bind((network.near(Link::Backends), 0)).await.unwrap();
    let backend = Backend::on(listener, echo);
    let text = on_all_addresses(&authority, backend.address);
    let disable = "for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$file; done";
    let in_it =
        format!("exec ip netns exec {} sh -c '{disable}; exec \"$@\"' sh \"$@\"", network.name());
    let mut command = by_shell(&in_it);
    command.arg("--config").arg(file::write(authority.dir(), &text));
    let mut sidecar = Sidecar::run(command);
    visit(&Device::new(&authority), (network.far(Link::Devices), sidecar.address.port()).into())
        .await;
    assert_eq!(peer(&mut sidecar), network.near(Link::Devices));
}
