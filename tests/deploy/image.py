"""Runs the image with the privileges that docs/image.md names, and connects to it as a device. Part of image.sh.

A read-only root, no capability, no new privileges, the image's own user. The backends are found by /etc/hosts and by
a name server of the check: a static binary contains the C library's resolver, which is the first part to break.
"""

import pathlib
import socket
import struct

from .check import eventually, require, same, true
from . import check
from .containers import Podman, own_room
from .net import device, http, in_background
from .pki import Authority

NAME = "devices.example"
BACKEND = 7000
# For each listener's port: the name of its backend, the backend's address, and the way to resolve the name.
LISTENERS = {
    8883: ("127.0.0.1", "127.0.0.1", "an address"),
    8884: ("localhost", "127.0.0.1", "/etc/hosts"),
    8885: ("gateway", "127.0.0.8", "/etc/hosts"),
    8886: ("legacy.plant.test", "127.0.0.9", "DNS"),
    8887: ("legacy", "127.0.0.9", "DNS, with a search domain"),
    8888: ("large.plant.test", "127.0.0.9", "DNS by TCP, an answer too long for UDP"),
}
NOBODY = 8889
RECORDS = {b"legacy.plant.test": 1, b"large.plant.test": 60}


def answer(query, truncate):
    """Returns a DNS answer: the number of A records in RECORDS, or NXDOMAIN."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    question, kind = query[12 : at + 5], struct.unpack("!H", query[at + 1 : at + 3])[0]
    name = b".".join(labels).lower()
    asked.append((name.decode(), "UDP" if truncate else "TCP"))
    count = RECORDS.get(name, 0) if kind == 1 else 0
    code = 0 if name in RECORDS else 3
    cut = 0x0200 if truncate and count > 20 else 0
    header = query[:2] + struct.pack("!HHHHH", 0x8580 | cut | code, 1, 0 if cut else count, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.9")
    return header + question + (b"" if cut else record * count)


asked = []


def name_server():
    by_udp, by_tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.53", 53))
    by_udp.bind(("127.0.0.53", 53))

    def datagrams():
        while True:
            query, peer = by_udp.recvfrom(4096)
            by_udp.sendto(answer(query, truncate=True), peer)

    def streams():
        while True:
            stream, _ = by_tcp.accept()
            # The resolver asks both questions, for IPv4 and IPv6, over one stream.
            with stream:
                while len(length := stream.recv(2, socket.MSG_WAITALL)) == 2:
                    reply = answer(stream.recv(struct.unpack("!H", length)[0], socket.MSG_WAITALL), truncate=False)
                    stream.sendall(struct.pack("!H", len(reply)) + reply)

    in_background(datagrams)
    in_background(streams)


def backend(address):
    """Runs a legacy server that sends its address, and repeats a line."""
    listening = socket.create_server((address, BACKEND))

    def serve():
        while True:
            stream, _ = listening.accept()
            with stream:
                stream.sendall(f"{address}: ".encode() + stream.makefile("rb").readline())

    in_background(serve)


def configuration(work):
    authority = Authority(work / "certificates", "check CA")
    crt, key = authority.issue("tls", NAME, [NAME])
    directory = work / "etc"
    directory.mkdir()
    for path in (crt, key):
        (directory / path.name).write_bytes(path.read_bytes())
        (directory / path.name).chmod(0o444)
    listeners = [(port, name) for port, (name, _, _) in LISTENERS.items()] + [(NOBODY, "nowhere.plant.test")]
    (directory / "tlsidecar.toml").write_text(
        "".join(
            f'[[listener]]\nname = "at-{port}"\nlisten = "127.0.0.1:{port}"\nbackend = "{name}:{BACKEND}"\n'
            'tls.certificates = [{ cert = "tls.crt", key = "tls.key" }]\n'
            for port, name in listeners
        )
    )
    (work / "hosts").write_text("127.0.0.1 localhost\n127.0.0.8 gateway\n")
    (work / "resolv.conf").write_text("nameserver 127.0.0.53\nsearch plant.test\noptions ndots:5\n")
    return authority


def health(podman):
    """Checks the health command in a container without a shell: run directly, and by podman."""
    def asked(*flags):
        return podman.attempt("exec", "tlsidecar", "/tlsidecar", "probe", *flags)

    def all_three():
        return [asked(flag) for flag in ("--live", "--started", "--ready")]

    same("the health command reports alive, started and ready", all_three(), [(0, "ok"), (0, "running"), (0, "running")])
    same("podman reports healthy by it", podman.attempt("healthcheck", "run", "tlsidecar")[0], 0)
    same("without an admin port, the command fails", asked("--live", "--admin", "127.0.0.1:1")[0], 1)
    podman("exec", "tlsidecar", "/tlsidecar", "drain")
    same("drained, it is alive and started, and not ready", [code for code, _ in all_three()], [0, 0, 1])
    same("and healthy for podman", podman.attempt("healthcheck", "run", "tlsidecar")[0], 0)
    # A stopped process answers no request: the case that the command exists for.
    podman("kill", "--signal=STOP", "tlsidecar")
    code, _ = asked("--live", "--timeout", "300ms")
    podman("kill", "--signal=CONT", "tlsidecar")
    same("a stopped process is not alive", code, 1)


def privileges(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {key: value.split() for key, value in (line.split(":", 1) for line in lines)}
    return {key: status[key] for key in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


def main(directory, image):
    work = pathlib.Path(directory)
    own_room()
    name_server()
    for address in ("127.0.0.1", "127.0.0.8", "127.0.0.9"):
        backend(address)
    authority = configuration(work)
    podman = Podman(work)
    podman.start(
        "tlsidecar", image,
        ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
         f"--volume={work}/etc:/etc/tlsidecar:ro", f"--volume={work}/hosts:/etc/hosts:ro",
         f"--volume={work}/resolv.conf:/etc/resolv.conf:ro",
         '--health-cmd=["/tlsidecar", "probe", "--live"]', "--health-interval=disable"],
        ["--config", "/etc/tlsidecar/tlsidecar.toml"],
    )
    eventually("the sidecar is ready", lambda: http("http://127.0.0.1:9901/readyz")[0] == 200 or podman.pid("tlsidecar") == 0)
    require(podman.pid("tlsidecar") != 0, "the container has ended:\n" + "\n".join(podman.log("tlsidecar")))

    none = "0" * 16
    same(
        "it runs as 65532, with no capability, no new privileges, and filtered system calls",
        privileges(podman.pid("tlsidecar")),
        {"Uid": ["65532"] * 4, "Gid": ["65532"] * 4, "Groups": ["65532"], "CapPrm": [none], "CapEff": [none],
         "CapBnd": [none], "NoNewPrivs": ["1"], "Seccomp": ["2"]},
    )
    for port, (name, address, way) in LISTENERS.items():
        with device(("127.0.0.1", port), authority.crt, NAME) as stream:
            stream.sendall(b"hello\n")
            same(f"a device reaches the backend {name}, found by {way}", stream.makefile("rb").read(),
                        f"{address}: hello\n".encode())
    true("the name server was asked", {("legacy.plant.test", "UDP"), ("large.plant.test", "TCP")} <= set(asked), asked)

    with device(("127.0.0.1", NOBODY), authority.crt, NAME) as stream:
        try:
            stream.recv(1)
        except OSError:
            pass
    unreachable = f'tlsidecar_connections_closed_total{{listener="at-{NOBODY}",reason="backend_unreachable"}} 1'
    eventually("a name that does not exist is counted", lambda: unreachable in http("http://127.0.0.1:9901/metrics")[1])
    true("a backend whose name does not exist is backend_unreachable", True)
    same("no connection closed with reason internal", http("http://127.0.0.1:9901/metrics")[1].count('reason="internal"} 0'),
                len(LISTENERS) + 1)

    health(podman)
    podman("kill", "--signal=TERM", "tlsidecar")
    same("SIGTERM ends it with exit code 0", podman.exit_code("tlsidecar", 10), 0)
    podman("rm", "--all", "--force")
    print(f"image: {check.passed} checks of the running image")
