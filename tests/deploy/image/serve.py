#!/usr/bin/env python3
"""Runs the image with nothing but what it says it needs, and is a device to it. Called by ../image.sh.

A read-only root, no capability, no new privileges, the image's own user. The backends are found by /etc/hosts and by
a name server of our own: a static binary has the C library's look-ups inside, and they are the first thing to break.
"""

import pathlib
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from containers import Authority, Checks, Podman, device, eventually, fail, http, in_background, own_room  # noqa: E402

NAME = "devices.example"
BACKEND = 7000
# What the listener at each port has for its backend, which of our backends that is, and how the name is found.
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
    """One DNS answer: an A record for what is in RECORDS, as often as it says there; NXDOMAIN for the rest."""
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
            # Both questions, for IPv4 and IPv6, come by one stream.
            with stream:
                while len(length := stream.recv(2, socket.MSG_WAITALL)) == 2:
                    reply = answer(stream.recv(struct.unpack("!H", length)[0], socket.MSG_WAITALL), truncate=False)
                    stream.sendall(struct.pack("!H", len(reply)) + reply)

    in_background(datagrams)
    in_background(streams)


def backend(address):
    """A legacy server that says who it is, and repeats a line."""
    listening = socket.create_server((address, BACKEND))

    def serve():
        while True:
            stream, _ = listening.accept()
            with stream:
                stream.sendall(f"{address}: ".encode() + stream.makefile("rb").readline())

    in_background(serve)


def configuration(work):
    authority = Authority(work / "certificates", "CA of a check")
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


def health(podman, checks):
    """The health command, in a container without a shell: by itself, and as the runtime asks it."""
    def asked(*flags):
        return podman.attempt("exec", "tlsidecar", "/tlsidecar", "probe", *flags)

    def all_three():
        return [asked(flag) for flag in ("--live", "--started", "--ready")]

    checks.same("the health command finds it alive, started and ready", all_three(), [(0, "ok"), (0, "running"), (0, "running")])
    checks.same("podman finds it healthy by it", podman.attempt("healthcheck", "run", "tlsidecar")[0], 0)
    checks.same("where no admin port is, the command fails", asked("--live", "--admin", "127.0.0.1:1")[0], 1)
    podman("exec", "tlsidecar", "/tlsidecar", "drain")
    checks.same("drained, it is alive and started, and not ready", [code for code, _ in all_three()], [0, 0, 1])
    checks.same("and healthy for podman", podman.attempt("healthcheck", "run", "tlsidecar")[0], 0)
    # Stopped in the middle of things, it answers nobody: that is what the command is for.
    podman("kill", "--signal=STOP", "tlsidecar")
    code, _ = asked("--live", "--timeout", "300ms")
    podman("kill", "--signal=CONT", "tlsidecar")
    checks.same("a process that has stopped turning is found dead", code, 1)


def privileges(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {key: value.split() for key, value in (line.split(":", 1) for line in lines)}
    return {key: status[key] for key in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


def main():
    work, image = pathlib.Path(sys.argv[1]), sys.argv[2]
    checks = Checks()
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
    if podman.pid("tlsidecar") == 0:
        fail("the container has ended:\n" + "\n".join(podman.log("tlsidecar")))

    none = "0" * 16
    checks.same(
        "it runs as 65532, with no capability, no new privileges, and filtered system calls",
        privileges(podman.pid("tlsidecar")),
        {"Uid": ["65532"] * 4, "Gid": ["65532"] * 4, "Groups": ["65532"], "CapPrm": [none], "CapEff": [none],
         "CapBnd": [none], "NoNewPrivs": ["1"], "Seccomp": ["2"]},
    )
    for port, (name, address, way) in LISTENERS.items():
        with device(("127.0.0.1", port), authority.crt, NAME) as stream:
            stream.sendall(b"hello\n")
            checks.same(f"a device reaches the backend {name}, found by {way}", stream.makefile("rb").read(),
                        f"{address}: hello\n".encode())
    checks.true("our name server was asked", {("legacy.plant.test", "UDP"), ("large.plant.test", "TCP")} <= set(asked), asked)

    with device(("127.0.0.1", NOBODY), authority.crt, NAME) as stream:
        try:
            stream.recv(1)
        except OSError:
            pass
    unreachable = f'tlsidecar_connections_closed_total{{listener="at-{NOBODY}",reason="backend_unreachable"}} 1'
    eventually("a name that does not exist is counted", lambda: unreachable in http("http://127.0.0.1:9901/metrics")[1])
    checks.ok("a backend whose name does not exist is backend_unreachable")
    checks.same("nothing was counted as our own fault", http("http://127.0.0.1:9901/metrics")[1].count('reason="internal"} 0'),
                len(LISTENERS) + 1)

    health(podman, checks)
    podman("kill", "--signal=TERM", "tlsidecar")
    checks.same("SIGTERM ends it in order", podman.exit_code("tlsidecar", 10), 0)
    podman("rm", "--all", "--force")
    print(f"serve.py: {checks.count} checks")


main()
