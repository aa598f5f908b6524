//! A network namespace for the proxy, with one link to devices and one to backends. The links can drop packets.
//!
//! **Promises.** The namespace and its links are deleted on drop. The tests' own side is outside of the namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::command::{has, skipped};
use super::process::by_shell;
use super::{Authority, Sidecar, file};

/// The next namespace of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace with two links.
pub(crate) struct Network {
    name: String,
    /// Place of its subnets in 198.18.0.0/15, which is for tests (RFC 2544).
    place: u32,
}

/// Another namespace. It is deleted on drop, with the links that were moved to it.
pub(crate) struct Machine(String);

impl Machine {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        shell(&format!("ip netns del {}", self.0));
    }
}

/// A rule that drops packets. It is deleted on drop.
pub(crate) struct Loss(String);

impl Drop for Loss {
    fn drop(&mut self) {
        shell(&format!("iptables -D {}", self.0));
    }
}

/// A link between the namespace and the tests.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    Devices,
    Backends,
}

impl Network {
    /// Makes a namespace. Returns none, and reports the test as skipped, if this machine does not allow it.
    pub(crate) fn new() -> Option<Self> {
        if !has("ip") || !has("iptables") {
            return None;
        }
        let pid = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let place = (pid.wrapping_mul(8) + number) % 16_384;
        let network = Self { name: format!("t{pid}-{number}"), place };
        // It fails without root.
        if !shell(&format!("ip netns add {}", network.name)) {
            skipped("a network namespace cannot be made: not root");
            return None;
        }
        for link in [Link::Devices, Link::Backends] {
            let (name, near, far) =
                (network.interface(link), network.near(link), network.far(link));
            let namespace = &network.name;
            let made = shell(&format!(
                "ip link add {name} type veth peer name {name}n netns {namespace} \
                 && ip addr add {near}/30 dev {name} && ip link set {name} up \
                 && ip -n {namespace} addr add {far}/30 dev {name}n \
                 && ip -n {namespace} link set {name}n up && ip -n {namespace} link set lo up"
            ));
            assert!(made, "{name}");
        }
        Some(network)
    }

    /// Returns the tests' own address on a link.
    pub(crate) fn near(&self, link: Link) -> IpAddr {
        self.address(link, 1)
    }

    /// Returns the name of the namespace.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of the link to backends within the namespace.
    pub(crate) fn server_link(&self) -> String {
        format!("{}n", self.interface(Link::Backends))
    }

    /// Runs a script within the namespace, and returns whether it succeeded.
    pub(crate) fn run(&self, script: &str) -> bool {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "sh", "-c", script]);
        command.status().unwrap().success()
    }

    /// Moves the backends' end of their link to another machine: a namespace whose default route is this one.
    pub(crate) fn separate_backends(&self) -> Machine {
        let machine = Machine(format!("{}m", self.name));
        let (name, link) = (machine.name(), self.interface(Link::Backends));
        let (near, far) = (self.near(Link::Backends), self.far(Link::Backends));
        assert!(shell(&format!(
            "ip netns add {name} && ip link set {link} netns {name} \
             && ip -n {name} addr add {near}/30 dev {link} && ip -n {name} link set {link} up \
             && ip -n {name} link set lo up && ip -n {name} route add default via {far}"
        )));
        machine
    }

    /// Starts a sidecar within the namespace, with a backend of the tests. `more` is appended to its listener's section.
    pub(crate) fn sidecar(&self, authority: &Authority, backend: u16, more: &str) -> Sidecar {
        self.sidecar_to(authority, (self.near(Link::Backends), backend).into(), more)
    }

    /// Starts a sidecar within the namespace, with a backend anywhere.
    pub(crate) fn sidecar_to(
        &self,
        authority: &Authority,
        backend: SocketAddr,
        more: &str,
    ) -> Sidecar {
        let text = file::text(backend, &authority.server(), more);
        let listen = |address| format!("name = \"test\"\nlisten = \"{address}:0\"");
        let own = listen("127.0.0.1".to_owned());
        assert!(text.contains(&own));
        let text = text.replace(&own, &listen(self.far(Link::Devices).to_string()));
        let mut command = by_shell(&format!("exec ip netns exec {} \"$@\"", self.name));
        command.arg("--config").arg(file::write(authority.dir(), &text));
        Sidecar::run(command)
    }

    /// Drops so many of a hundred packets on a link, in both directions.
    pub(crate) fn lose(&self, link: Link, percent: u8) {
        let (interface, namespace) = (self.interface(link), &self.name);
        let share = f64::from(percent) / 100.0;
        let matched = if percent < 100 {
            format!("-m statistic --mode random --probability {share}")
        } else {
            String::new()
        };
        for direction in ["INPUT -i", "OUTPUT -o"] {
            assert!(shell(&format!(
                "ip netns exec {namespace} iptables -A {direction} {interface}n {matched} -j DROP"
            )));
        }
    }

    /// Drops the packets from the namespace on this link that are larger than so many bytes, until the result is
    /// dropped: a path with a small MTU and without ICMP.
    #[must_use]
    pub(crate) fn lose_larger(&self, link: Link, bytes: u16) -> Loss {
        // By the receiver: a packet that its sender's own host drops counts as not sent.
        let (interface, above) = (self.interface(link), bytes + 1);
        let rule = format!("INPUT -i {interface} -m length --length {above}: -j DROP");
        assert!(shell(&format!("iptables -A {rule}")), "{rule}");
        Loss(rule)
    }

    /// Returns the namespace's address on a link.
    pub(crate) fn far(&self, link: Link) -> IpAddr {
        self.address(link, 2)
    }

    fn address(&self, link: Link, host: u32) -> IpAddr {
        let subnet = 2 * self.place + link as u32;
        Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * subnet + host).into()
    }

    /// Returns the name of the tests' end, of at most 15 characters with an "n" for the other end.
    fn interface(&self, link: Link) -> String {
        format!("{}{}", self.name, link as u32)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links are deleted with the last process of the namespace, or by this.
        for link in [Link::Devices, Link::Backends] {
            shell(&format!("ip link del {}", self.interface(link)));
        }
        shell(&format!("ip netns del {}", self.name));
    }
}

fn shell(script: &str) -> bool {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    output.status.success()
}
