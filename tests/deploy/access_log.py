"""Lines of a real access log: a tlsidecar, a device that is served, and a client that speaks no TLS."""

import socket
import subprocess
import tempfile
from pathlib import Path

from .check import eventually, program
from .net import device, free_port, in_background
from .pki import self_signed

CONFIG = """\
[log]
format = "{form}"
[[listener]]
name = "mqtt"
listen = "127.0.0.1:{port}"
backend = "127.0.0.1:{backend}"
tls.certificates = [{{ cert = "tls.crt", key = "tls.key" }}]
"""


def access_log(form):
    """Returns the two lines in a format of log.format: a connection that ends in order, and a failure."""
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as backend:
        place, port, admin = Path(directory), free_port(), free_port()
        self_signed(place / "tls.crt", place / "tls.key", "localhost")
        config = CONFIG.format(form=form, port=port, backend=backend.getsockname()[1])
        (place / "tlsidecar.toml").write_text(config)
        log = place / "log"
        with open(log, "wb") as into:
            running = subprocess.Popen([str(program()), "--config", place / "tlsidecar.toml", "--admin", f"127.0.0.1:{admin}"],
                                       stderr=into)
        try:
            eventually("it listens", lambda: "listening" in log.read_text() or running.poll() is not None)
            in_background(echo, backend)
            with device(("127.0.0.1", port), place / "tls.crt", "localhost") as tls:
                tls.sendall(b"hello")
                tls.recv(5)
                tls.unwrap()
            # Otherwise the lines can be in the other order.
            eventually("a line", lambda: written(log, 1))
            with socket.create_connection(("127.0.0.1", port)) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                plain.recv(100)
            return eventually("two lines", lambda: written(log, 2))
        finally:
            running.kill()
            running.wait()


def echo(backend):
    stream, _ = backend.accept()
    with stream:
        while data := stream.recv(100):
            stream.sendall(data)


def written(log, number):
    """Returns the lines of the access log once there are so many."""
    found = [line for line in log.read_text().splitlines() if "bytes_to_client" in line]
    return found if len(found) == number else None
