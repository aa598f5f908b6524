#!/usr/bin/env python3
"""Measures how connections end, beside HAProxy and nginx: a drain with many idle connections, and a device that vanishes.

Needs root, openssl, ip and iptables; proxies that are not installed are left out. All run with an idle timeout of an
hour, as devices need it that report rarely. Prints tables in Markdown.

Promises. All proxies have the same certificate, the same backend and, for vanished devices, the same network
namespace at the same time. Whatever is started is ended.
"""

import argparse
import collections
import contextlib
import multiprocessing
import os
import pathlib
import resource
import select
import selectors
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import tempfile
import threading
import time

# Seconds over which a drain may last.
SPREAD = 30
# Addresses for tests (RFC 2544): the devices' and the backend's end, and the proxies' ends.
DEVICES, FRONT, BACKEND, BACK = "198.18.250.1", "198.18.250.2", "198.18.250.5", "198.18.250.6"
NAMESPACE = "endings"


class Tlsidecar:
    name, program = "tlsidecar", None
    drain_signal = signal.SIGTERM
    tuned = '[listener.tcp]\nkeepalive = "8s"\nuser_timeout = "20s"\n'

    def write(self, folder, listen, backend, tuned):
        config = folder / f"tlsidecar-{listen[1]}.toml"
        config.write_text(
            f'[admin]\nlisten = "off"\n[log]\nfilter = "warn"\n'
            f'[shutdown]\ndrain_spread = "{SPREAD}s"\ndrain_timeout = "{2 * SPREAD}s"\n'
            f'[[listener]]\nname = "tls"\nlisten = "{listen[0]}:{listen[1]}"\nbackend = "{backend[0]}:{backend[1]}"\n'
            f'[listener.tls]\ncertificates = [{{ cert = "{folder}/server.pem", key = "{folder}/server.key" }}]\n'
            + (self.tuned if tuned else ""))
        return [self.program, "--config", str(config)]


class HAProxy:
    name, program = "HAProxy", shutil.which("haproxy")
    drain_signal = signal.SIGUSR1
    tuned = ("option clitcpka\n clitcpka-idle 8s\n clitcpka-intvl 4s\n clitcpka-cnt 3\n"
             " option srvtcpka\n srvtcpka-idle 8s\n srvtcpka-intvl 4s\n srvtcpka-cnt 3\n")

    def write(self, folder, listen, backend, tuned):
        config = folder / f"haproxy-{listen[1]}.cfg"
        # close-spread-time has no effect on TCP: idle connections live until hard-stop-after.
        config.write_text(
            f"global\n maxconn 8000\n hard-stop-after {SPREAD}s\n close-spread-time {SPREAD}s\n"
            f"defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            f" {self.tuned if tuned else ''}\n"
            f"listen tls\n bind {listen[0]}:{listen[1]} ssl crt {folder}/both.pem {'tcp-ut 20s' if tuned else ''}\n"
            f" server backend {backend[0]}:{backend[1]} {'tcp-ut 20s' if tuned else ''}\n")
        return [self.program, "-db", "-f", str(config)]


class Nginx:
    name, program = "nginx", shutil.which("nginx")
    drain_signal = signal.SIGQUIT
    tuned = " so_keepalive=8s:4s:3"

    def write(self, folder, listen, backend, tuned):
        config = folder / f"nginx-{listen[1]}.conf"
        module = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        config.write_text(
            (f"load_module {module};\n" if module.exists() else "")
            + f"user root; daemon off; worker_processes 2; worker_rlimit_nofile 20000; pid {folder}/nginx-{listen[1]}.pid;\n"
            f"error_log {folder}/nginx.log; worker_shutdown_timeout {SPREAD}s;\nevents {{ worker_connections 16000; }}\n"
            f"stream {{ server {{ listen {listen[0]}:{listen[1]} ssl{self.tuned if tuned else ''};\n"
            f" proxy_pass {backend[0]}:{backend[1]}; proxy_timeout 1h; {'proxy_socket_keepalive on;' if tuned else ''}\n"
            f" ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key; }} }}\n")
        return [self.program, "-c", str(config)]


def make_certificate(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                    "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.pem"],
                   cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "server.pem").read_text() + (folder / "server.key").read_text())


@contextlib.contextmanager
def running(command, within=()):
    process = subprocess.Popen([*within, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(address):
    """Returns an established session. Its certificate is not verified: it is not what is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + 20
    while True:
        try:
            tcp = socket.create_connection(address, timeout=20)
            # An end without close_notify is an error, so that it can be told apart.
            return context.wrap_socket(tcp, suppress_ragged_eofs=False)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def free_port(address="127.0.0.1"):
    with socket.create_server((address, 0)) as server:
        return server.getsockname()[1]


def echo_for_ever(server):
    """Serves thousands of connections in one process."""
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is server:
                selector.register(server.accept()[0], selectors.EVENT_READ)
                continue
            with contextlib.suppress(OSError):
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.sendall(data)
                    continue
            selector.unregister(key.fileobj)
            key.fileobj.close()


def ended(session):
    """Returns how a readable session has ended; None if it has not."""
    try:
        return "close_notify" if session.recv(4096) == b"" else None
    except ssl.SSLWantReadError:
        return None
    except (ssl.SSLEOFError, ssl.SSLError):
        return "end of TCP"
    except OSError:
        return "reset"


def drain(proxy, folder, connections, backend):
    """Returns a row of the table of drains."""
    address = ("127.0.0.1", free_port())
    with running(proxy.write(folder, address, backend, False)) as process:
        selector = selectors.DefaultSelector()
        for _ in range(connections):
            session = connect(address)
            session.sendall(b"x")
            assert session.recv(1) == b"x"
            session.setblocking(False)
            selector.register(session, selectors.EVENT_READ)
        # The proxy's own idea of idle.
        time.sleep(2)
        start, ends, kinds = time.monotonic(), [], collections.Counter()
        process.send_signal(proxy.drain_signal)
        while selector.get_map() and time.monotonic() < start + 2 * SPREAD + 10:
            for key, _ in selector.select(1):
                kind = ended(key.fileobj)
                if kind:
                    ends.append(time.monotonic() - start)
                    kinds[kind] += 1
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
        left = len(selector.get_map())
        for key in list(selector.get_map().values()):
            key.fileobj.close()
    by_second = collections.Counter(int(end) for end in ends)
    how = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + (f", {left} left" if left else "")
    middle = [by_second[second] for second in range(1, SPREAD - 1)]
    return (f"| {proxy.name} | {min(ends):.1f} to {max(ends):.1f} s | {max(by_second.values())} | "
            f"{statistics.median(middle):.0f} | {how} |")


def drains(proxies, folder, connections):
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    backend = multiprocessing.get_context("fork").Process(target=echo_for_ever, args=(server,), daemon=True)
    backend.start()
    print(f"\n{connections} idle connections, {SPREAD} s for the drain:\n")
    print("| proxy | closed after | most in one second | median of the seconds between | kind of end |\n|---|---|---|---|---|")
    for proxy in proxies:
        print(drain(proxy, folder, connections, server.getsockname()), flush=True)
    backend.terminate()


@contextlib.contextmanager
def namespace():
    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", NAMESPACE)
    try:
        for name, near, far in (("ending0", DEVICES, FRONT), ("ending1", BACKEND, BACK)):
            ip("link", "add", name, "type", "veth", "peer", "name", f"{name}n", "netns", NAMESPACE)
            ip("addr", "add", f"{near}/30", "dev", name)
            ip("link", "set", name, "up")
            ip("-n", NAMESPACE, "addr", "add", f"{far}/30", "dev", f"{name}n")
            ip("-n", NAMESPACE, "link", "set", f"{name}n", "up")
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        yield
    finally:
        # The kernel deletes the links of a namespace some time after its last process.
        for name in ("ending0", "ending1"):
            subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL)
        ip("netns", "del", NAMESPACE)


class NotingBackend:
    """Pushes bytes to a device that asks for them, is silent to others, and notes when their connections end."""

    def __init__(self):
        self.server = socket.create_server((BACKEND, 0))
        self.address = self.server.getsockname()
        self.ends = {}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            tcp = self.server.accept()[0]
            threading.Thread(target=self.serve, args=(tcp,), daemon=True).start()

    def serve(self, tcp):
        who = tcp.recv(64)
        tcp.sendall(b"x")
        tcp.setblocking(False)
        events = select.POLLRDHUP | (select.POLLOUT if who.startswith(b"pushed") else 0)
        poll = select.poll()
        poll.register(tcp, events)
        while True:
            if poll.poll()[0][1] & ~select.POLLOUT:
                break
            with contextlib.suppress(BlockingIOError, ConnectionError):
                tcp.send(bytes(10_000))
        self.ends[who.decode()] = time.monotonic()
        tcp.close()


def established(process):
    """Returns the connections of the namespace of a process, each as its two ports: proc_pid_net(5)."""
    lines = [line.split() for line in pathlib.Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]]

    def port(address):
        return int(address.split(":")[1], 16)

    return {(port(line[1]), port(line[2])) for line in lines if line[3] == "01"}


def read_on(session):
    with contextlib.suppress(OSError):
        while session.recv(65536):
            pass


def vanished(proxies, folder, seconds):
    """Measures all proxies at the same time, each with its defaults and with short times."""
    with namespace(), contextlib.ExitStack() as stack:
        backend, cases = NotingBackend(), {}
        for place, (proxy, tuned) in enumerate((proxy, tuned) for proxy in proxies for tuned in (False, True)):
            address = (FRONT, 8800 + place)
            command = proxy.write(folder, address, backend.address, tuned)
            process = stack.enter_context(running(command, ["ip", "netns", "exec", NAMESPACE]))
            for kind in ("silent", "pushed"):
                session, who = connect(address), f"{kind} {place}"
                session.sendall(who.encode())
                assert session.recv(1) == b"x"
                # The session is kept open.
                cases[who] = (proxy, tuned, (address[1], session.getsockname()[1]), session)
                if kind == "pushed":
                    session.settimeout(None)
                    threading.Thread(target=read_on, args=(session,), daemon=True).start()
        time.sleep(1)
        for chain, direction in (("INPUT", "-i"), ("OUTPUT", "-o")):
            subprocess.run(["ip", "netns", "exec", NAMESPACE, "iptables", "-A", chain, direction, "ending0n", "-j", "DROP"],
                           check=True)
        start, gone = time.monotonic(), {}
        while time.monotonic() < start + seconds and len(gone) + len(backend.ends) < 2 * len(cases):
            there = established(process)
            for who, (*_, ports, _) in cases.items():
                if ports not in there:
                    gone.setdefault(who, time.monotonic())
            time.sleep(0.2)

        def after(times, who):
            return f"{times[who] - start:.0f} s" if who in times else f"more than {seconds} s"

        print(f"\nA device that vanishes, in one network namespace, observed for {seconds} s:\n")
        print("| proxy | settings | silent device: its connection | its backend connection | "
              "device in a transfer: its connection | its backend connection |\n|---|---|---|---|---|---|")
        for proxy in proxies:
            for tuned in (False, True):
                row = [f"{after(gone, who)} | {after(backend.ends, who)}"
                       for who, case in cases.items() if case[:2] == (proxy, tuned)]
                print(f"| {proxy.name} | {'short' if tuned else 'default'} | {' | '.join(row)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/tlsidecar")
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=150, help="time for which vanished devices are observed")
    parser.add_argument("--only", choices=("drain", "vanished"))
    arguments = parser.parse_args()
    Tlsidecar.program = os.path.abspath(arguments.binary)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    proxies = [proxy for proxy in (Tlsidecar(), HAProxy(), Nginx()) if proxy.program]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_certificate(folder)
        if arguments.only != "vanished":
            drains(proxies, folder, arguments.connections)
        if arguments.only != "drain":
            vanished(proxies, folder, arguments.seconds)


if __name__ == "__main__":
    main()
