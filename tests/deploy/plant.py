"""The load of prometheus.py: two tlsidecars with three listeners, their backends, and devices that succeed or fail in every
way that can be caused from outside. Devices are Python's ssl and `openssl s_client`.

Events of a run, so that graphs have something to show: one instance restarts; a certificate of a CA that devices do not
trust is served, and replaced; a key that does not match is rejected; one instance drains.
"""

import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path

from cryptography import x509

from .check import Failed, attempt, eventually
from .net import free_port, http, in_background
from .pki import Authority, damage

# Devices that stay connected.
KEPT = 30
WALKERS = 4
# Timeout of everything, so that a failed test ends soon.
SHORT = 5.0

CONFIG = """\
[admin]
listen = "127.0.0.1:{admin}"

[shutdown]
drain_timeout = "4s"

[[listener]]
name = "mqtt"
listen = "127.0.0.1:{ports[0]}"
backend = "127.0.0.1:{echo}"
tls.certificates = [{{ cert = "tls.crt", key = "tls.key" }}]
tls.rollout = {{ share = "5%", observe = "10m" }}
timeouts = {{ hello = "500ms", handshake = "2s", connect = "300ms", idle = "3s", half_close = "1s" }}

[[listener.route]]
sni = ["refused.example"]
backend = "127.0.0.1:{closed}"
[[listener.route]]
sni = ["timeout.example"]
backend = "127.0.0.1:{full}"
[[listener.route]]
sni = ["unreachable.example"]
backend = "unix:{place}/nobody.sock"
[[listener.route]]
sni = ["error.example"]
backend = "unix:{place}/datagrams.sock"

[[listener]]
name = "pumps"
listen = "127.0.0.1:{ports[1]}"
backend = "127.0.0.1:{echo}"
tls.certificates = [{{ cert = "tls.crt", key = "tls.key" }}, {{ cert = "rsa.crt", key = "rsa.key" }}]
tls.client_auth = "required"
tls.client_ca = "devices.crt"
tls.crls = ["devices.crl"]
allow.cn = ["pump-*"]

[[listener]]
name = "modbus"
listen = "127.0.0.1:{ports[2]}"
unknown_name = "refuse"
tls.certificates = [{{ cert = "tls.crt", key = "tls.key" }}]
tls.min_version = "1.3"
tls.alpn = ["modbus"]
balance.check_interval = "{checks}"

[[listener.route]]
sni = ["localhost"]
backend = {modbus}
"""


# ---- The plant -----------------------------------------------------------------------------------


def ask(port, path, method="GET"):
    """Returns the body of the admin port's answer, "" where there is none."""
    return http(f"http://127.0.0.1:{port}{path}", method, SHORT)[1]


class Instance:
    """One tlsidecar, which can be started again on its ports."""

    def __init__(self, program, place, settings):
        self.program, self.place = program, place
        self.admin, self.ports = free_port(), [free_port() for _ in range(3)]
        self.config = os.path.join(place, f"{self.admin}.toml")
        Path(self.config).write_text(CONFIG.format(admin=self.admin, ports=self.ports, place=place, **settings))
        self.process = None
        self.start()

    def start(self):
        with open(os.path.join(self.place, f"{self.admin}.log"), "ab") as log:
            self.process = subprocess.Popen([self.program, "--config", self.config], stderr=log)
        eventually("tlsidecar is ready", lambda: self.process.poll() is not None or self.ready())
        if self.process.poll() is not None:
            raise Failed("tlsidecar ended: " + Path(self.place, f"{self.admin}.log").read_text()[-2000:])

    def ready(self):
        return "running" in ask(self.admin, "/readyz")

    def restart(self):
        self.process.send_signal(signal.SIGTERM)
        # A second signal, after the first one has taken effect, forces the drain, so that devices need not leave.
        eventually("the drain has begun", lambda: not self.ready())
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(3 * SHORT)
        self.start()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Plant:
    """The tlsidecars, their backends, and the devices."""

    def __init__(self, program, place):
        self.place, self.over, self.threads, self.faults = place, threading.Event(), [], []
        self.certificates()
        self.sockets = []
        settings = {"echo": self.echo(), "closed": free_port(), "full": self.full()}
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagrams.bind(os.path.join(place, "datagrams.sock"))
        # The first one shows how few series a process has. The second one has a list of backends, and one of them is down.
        one, down = f'"127.0.0.1:{settings["echo"]}"', f'"127.0.0.1:{settings["closed"]}"'
        backends = ({"modbus": one, "checks": "0s"}, {"modbus": f"[{down}, {one}]", "checks": "1s"})
        self.instances = []
        try:
            for modbus in backends:
                self.instances.append(Instance(program, place, {**settings, **modbus}))
        except BaseException:
            self.end()
            raise

    def certificates(self):
        gateway = {"common_name": "gateway", "names": ["localhost", "*.example"], "begins": -30}
        ours, others = Authority(self.place, "Plant CA"), Authority(self.place, "Another CA", "other-ca")
        ours.issue("good", ends=60, **gateway)
        others.issue("strange", ends=80, **gateway)
        ours.issue("rsa", ends=20, rsa_bits=2048, **gateway)
        self.put("good")
        devices = Authority(self.place, "Devices CA", "devices", days=800)
        for file, ends in {"soon": 0.5, "days": 3, "weeks": 20, "months": 60, "later": 300, "revoked": 300}.items():
            self.pump(devices, file, ends=ends)
        self.pump(devices, "expired", ends=-1)
        self.pump(devices, "tomorrow", begins=1)
        self.pump(devices, "purpose", usage="server")
        self.pump(others, "stranger")
        devices.revoke("devices.crl", os.path.join(self.place, "revoked.crt"))
        damage(self.pump(devices, "damaged")[0])
        self.pump(devices, "weak", rsa_bits=1024)
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
        self.pump(devices, "critical", more=[unknown])
        devices.issue("valve", "valve-1", ["valve-1"], "client", begins=-30)
        # More certificates than max_chain_certificates.
        crt, _ = self.pump(devices, "chain")
        crt.write_text(crt.read_text() + devices.crt.read_text() * 10)
        # A CA without a CRL.
        other = Authority(self.place, "Other devices CA", "other-devices", days=800)
        self.pump(other, "unlisted")
        devices.crt.write_text(devices.crt.read_text() + other.crt.read_text())

    @staticmethod
    def pump(authority, file, usage="client", **others):
        return authority.issue(file, f"pump-{file}", [f"pump-{file}"], usage, **{"begins": -30, **others})

    def put(self, name_of_pair, key=None):
        """Installs a certificate and its key as tls.crt and tls.key, by two renames."""
        for kind, source in (("crt", name_of_pair), ("key", key or name_of_pair)):
            link = os.path.join(self.place, f"tls.{kind}")
            os.symlink(f"{source}.{kind}", link + ".new")
            os.rename(link + ".new", link)

    def reload(self):
        return [ask(instance.admin, "/reload", "POST").split("\n")[0] for instance in self.instances]

    # -- Backends

    def listening(self, backlog=256):
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        self.sockets.append(server)
        return server

    def echo(self):
        server = self.listening()

        def serve(peer):
            with peer:
                while data := peer.recv(65536):
                    if data.startswith(b"RESET"):
                        reset(peer)
                        return
                    # A legacy server that keeps its side open after its client has closed.
                    if data.startswith(b"STAY"):
                        self.over.wait(2)
                        return
                    peer.sendall(data)

        def accept():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                quietly(serve, peer)

        quietly(accept)
        return server.getsockname()[1]

    def full(self):
        """Returns a port whose backlog is full: connecting to it times out."""
        server = self.listening(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
            self.sockets.append(filler)
        return server.getsockname()[1]

    # -- Devices

    def context(self, ca="ca.crt", pair=None, version=None, alpn=None):
        context = ssl.create_default_context(cafile=os.path.join(self.place, ca))
        if pair == "weak":
            # OpenSSL refuses to load such a key at its usual level.
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if pair:
            context.load_cert_chain(os.path.join(self.place, f"{pair}.crt"), os.path.join(self.place, f"{pair}.key"))
        if version:
            context.minimum_version = context.maximum_version = version
        if alpn:
            context.set_alpn_protocols([alpn])
        return context

    def device(self, listener, context, host="localhost", session=None, last=b"x", unwrap=True, instance=None):
        """Connects, sends data, receives it, and disconnects; returns the TLS session."""
        to = instance or random.choice(self.instances)
        with socket.create_connection(("127.0.0.1", to.ports[listener]), timeout=SHORT) as tcp:
            with context.wrap_socket(tcp, server_hostname=host, session=session) as tls:
                tls.sendall(last)
                tls.recv(100)
                session = tls.session
                if unwrap:
                    tls.unwrap()
                return session

    def raw(self, data, wait=False, listener=0, cut=False):
        to = random.choice(self.instances).ports[listener]
        with socket.create_connection(("127.0.0.1", to), timeout=SHORT) as tcp:
            tcp.sendall(data)
            if wait:
                tcp.recv(100)
            if cut:
                reset(tcp)

    def openssl(self, *arguments, listener=0):
        to = f"127.0.0.1:{random.choice(self.instances).ports[listener]}"
        attempt("openssl", "s_client", "-connect", to, "-servername", "localhost", *arguments, timeout=SHORT)

    def ways(self):
        """Returns the behaviours of devices, each with its weight."""
        ours, tls12 = self.context(), self.context(version=ssl.TLSVersion.TLSv1_2)
        anybody = self.context()
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        stranger, modbus = self.context("other-ca.crt"), self.context(alpn="modbus")
        pumps = {pair: self.context(pair=pair) for pair in (
            "later", "expired", "tomorrow", "purpose", "stranger", "revoked", "chain", "damaged", "weak", "critical", "valve",
            "unlisted")}
        sessions = {}

        def resume():
            instance = random.choice(self.instances)
            sessions[instance] = self.device(0, tls12, session=sessions.get(instance), instance=instance)

        ca, old = os.path.join(self.place, "ca.crt"), ["-tls1_2", "-cipher"]
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        return [
            (30, lambda: self.device(0, ours)),
            (12, resume),
            (6, lambda: self.device(0, anybody, unwrap=False)),
            (10, lambda: self.device(1, pumps["later"])),
            (5, lambda: self.device(2, modbus)),
            (2, lambda: self.device(0, anybody, last=b"RESET")),
            (1, lambda: self.device(0, anybody, last=b"STAY")),
            # Failures.
            (3, lambda: self.device(0, stranger)),
            (1, lambda: self.device(0, ours, host="elsewhere.invalid")),
            (1, lambda: self.openssl("-CAfile", ca, "-verify_return_error", "-attime", "4102444800")),
            (1, lambda: self.openssl("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")),
            (1, lambda: self.openssl(*old, "AES128-SHA")),
            (1, lambda: self.openssl(*old, "ECDHE-ECDSA-AES128-SHA")),
            (1, lambda: self.openssl(*old, "ECDHE-RSA-AES128-GCM-SHA256")),
            (1, lambda: self.openssl("-tls1_3", "-groups", "P-521")),
            (1, lambda: self.openssl("-tls1_3", "-groups", "P-521:P-256")),
            (1, lambda: self.openssl("-tls1_3", "-sigalgs", "RSA-PSS+SHA256")),
            (1, lambda: self.openssl("-alpn", "mqtt", listener=2)),
            (1, lambda: self.openssl("-tls1_2", listener=2)),
            (2, lambda: self.raw(b"GET / HTTP/1.1\r\n\r\n", wait=True)),
            (2, lambda: self.raw(b"")),
            (2, lambda: self.raw(hello)),
            (1, lambda: self.raw(hello, cut=True)),
            (1, lambda: self.raw(hello, wait=True)),
            (1, lambda: self.raw(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00", wait=True)),
            (1, lambda: self.device(1, ours)),
            (1, lambda: self.device(1, pumps["expired"])),
            (1, lambda: self.device(1, pumps["tomorrow"])),
            (1, lambda: self.device(1, pumps["purpose"])),
            (1, lambda: self.device(1, pumps["stranger"])),
            (1, lambda: self.device(1, pumps["revoked"])),
            (1, lambda: self.device(1, pumps["chain"])),
            (1, lambda: self.device(1, pumps["damaged"])),
            (1, lambda: self.device(1, pumps["weak"])),
            (1, lambda: self.device(1, pumps["critical"])),
            (1, lambda: self.device(1, pumps["valve"])),
            (1, lambda: self.device(1, pumps["unlisted"])),
            (1, lambda: self.device(2, anybody, host="unknown.invalid")),
            (1, lambda: self.device(2, anybody, host="other.example")),
            (2, lambda: self.device(0, anybody, host="refused.example")),
            (1, lambda: self.device(0, anybody, host="timeout.example")),
            (1, lambda: self.device(0, anybody, host="unreachable.example")),
            (1, lambda: self.device(0, anybody, host="error.example")),
        ]

    def walk(self):
        ways = self.ways()
        # Each once, then at random.
        order = random.sample(ways, len(ways))
        while not self.over.is_set():
            _, way = order.pop() if order else random.choices(ways, [often for often, _ in ways])[0]
            try:
                way()
            except (OSError, subprocess.TimeoutExpired):
                pass
            except Exception as error:  # pylint: disable=broad-except
                self.faults.append(error)
            self.over.wait(random.uniform(0.02, 0.12))

    def keep(self, number):
        """Stays connected and sends data each second; reconnects after a disconnection."""
        pair = ["soon", "days", "weeks", "months", "later"][number % 5]
        listener = number % 2
        context = self.context(pair=pair if listener else None)
        while not self.over.is_set():
            to = self.instances[number % 3 == 0].ports[listener]
            try:
                with socket.create_connection(("127.0.0.1", to), timeout=SHORT) as tcp:
                    with context.wrap_socket(tcp, server_hostname="localhost") as tls:
                        # Every tenth is silent until the idle timeout.
                        while number % 10 and not self.over.wait(random.uniform(0.5, 1.5)):
                            tls.sendall(random.randbytes(random.randrange(1, 4000)))
                            if not tls.recv(4096):
                                break
                        if not number % 10:
                            tls.recv(1)
            except OSError:
                pass
            self.over.wait(random.uniform(0.5, 2))

    # -- The events

    def live(self, seconds, scraped=lambda: None):
        """Runs the load and the events; returns the outcomes of the reloads. `scraped` waits until the end is scraped."""
        begun, drained = time.monotonic(), self.instances[1]
        for number in range(KEPT):
            self.thread(self.keep, number)
        for _ in range(WALKERS):
            self.thread(self.walk)

        def until(share):
            time.sleep(max(0.0, begun + share * seconds - time.monotonic()))

        until(0.2)
        drained.restart()
        until(0.35)
        self.put("strange")
        outcomes = [self.reload()]
        until(0.5)
        self.put("good")
        outcomes.append(self.reload())
        until(0.6)
        self.put("good", key="rsa")
        outcomes.append(self.reload())
        until(0.75)
        self.put("good")
        outcomes.append(self.reload())
        until(0.85)
        ask(drained.admin, "/drain", "POST")
        until(1)
        scraped()
        return outcomes

    def thread(self, target, *arguments):
        self.threads.append(in_background(target, *arguments))

    def end(self):
        self.over.set()
        for instance in self.instances:
            instance.stop()
        for thread in self.threads:
            thread.join(SHORT)
        for each in [*self.sockets, self.datagrams]:
            each.close()


def reset(tcp):
    """Makes the close of a connection send a reset."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def quietly(target, *arguments):
    """Runs a function in a thread that ends with its connection."""

    def run():
        try:
            target(*arguments)
        except OSError:
            pass

    in_background(run)
