"""The servers, each set up for the same job, with the certificates and the backend of all.

Promises. A site is one of SITES: `rsa` and `ecdsa` have that certificate and ask for none, `clients` has RSA and
asks for one that the run's own CA has signed, and takes a device without. All speak TLS 1.2 and 1.3, with tickets and with ALPN's `http/1.1`.
Whatever is started is ended when its `with` block ends.
"""

import contextlib
import pathlib
import shutil
import socket
import socketserver
import subprocess
import threading
import time

ANSWER = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nHello\n"
SITES = ("rsa", "ecdsa", "clients")
KEYS = {
    "rsa": ["rsa:2048"],
    "ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "brainpool": ["ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"],
    "ed25519": ["ed25519"],
}


class Material:
    """A CA, and a certificate of each kind of key that serves as server's and as client's."""

    def __init__(self, folder):
        self.folder = folder
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=tlsfuzzer CA",
                      "-keyout", "ca.key", "-out", "ca.pem")
        for kind, algorithm in KEYS.items():
            self._openssl("req", "-x509", "-newkey", *algorithm, "-nodes", "-days", "30", "-subj", "/CN=localhost",
                          "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost,DNS:localhost4",
                          "-addext", "basicConstraints=critical,CA:FALSE",
                          "-addext", "extendedKeyUsage=serverAuth,clientAuth",
                          "-keyout", f"{kind}.key", "-out", f"{kind}.pem")
            (folder / f"{kind}-both.pem").write_text((folder / f"{kind}.pem").read_text() + (folder / f"{kind}.key").read_text())

    def cert(self, kind):
        return self.folder / f"{kind}.pem"

    def key(self, kind):
        return self.folder / f"{kind}.key"

    def both(self, kind):
        return self.folder / f"{kind}-both.pem"

    def ca(self):
        return self.folder / "ca.pem"

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


def server_key(site):
    return "ecdsa" if site == "ecdsa" else "rsa"


class Server:
    """One program. A subclass has `name`, `program`, `flag` and `command(site, material, port, backend)`."""

    flag = "-v"

    def __init__(self, _binary):
        self.path = shutil.which(self.program)

    def version(self):
        """Returns the line that names its version; none if it is not installed."""
        if self.path is None or not pathlib.Path(self.path).exists():
            return None
        output = subprocess.run([self.path, self.flag], capture_output=True, text=True)
        return next((line for line in (output.stdout + output.stderr).splitlines() if any(map(str.isdigit, line))), "?")

    @contextlib.contextmanager
    def start(self, site, material, backend):
        """Starts it, waits until it listens, and yields its port."""
        port = free_port()
        log = material.folder / f"{self.name}-{site}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(self.command(site, material, port, backend), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
            try:
                wait_for(port, process, log)
                yield port
                if process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended in the run:\n{log.read_text()[-2000:]}")
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Tlsidecar(Server):
    name = "tlsidecar"
    flag = "--version"

    def __init__(self, binary):
        self.path = str(binary)

    def command(self, site, material, port, backend):
        key = server_key(site)
        clients = f'client_auth = "optional"\nclient_ca = "{material.ca()}"\n' if site == "clients" else ""
        config = material.folder / f"tlsidecar-{site}.toml"
        config.write_text(
            f'[admin]\nlisten = "127.0.0.1:0"\n[[listener]]\nname = "tls"\nlisten = "[::]:{port}"\nbackend = "127.0.0.1:{backend}"\n'
            f'[listener.tls]\ncertificates = [{{ cert = "{material.cert(key)}", key = "{material.key(key)}" }}]\nalpn = ["http/1.1"]\n{clients}'
        )
        return [self.path, "--config", str(config)]


class HAProxy(Server):
    name = program = "haproxy"

    def command(self, site, material, port, backend):
        verify = f" ca-file {material.ca()} verify optional" if site == "clients" else ""
        config = material.folder / f"haproxy-{site}.cfg"
        config.write_text(
            "global\n ssl-default-bind-options ssl-min-ver TLSv1.2\ndefaults\n mode tcp\n timeout connect 5s\n"
            " timeout client 1m\n timeout server 1m\n"
            f"frontend f\n bind :::{port} v4v6 ssl crt {material.both(server_key(site))}{verify} alpn http/1.1\n default_backend b\n"
            f"backend b\n server s 127.0.0.1:{backend}\n"
        )
        return [self.path, "-db", "-f", str(config)]


class Nginx(Server):
    name = program = "nginx"

    def command(self, site, material, port, backend):
        verify = f"ssl_client_certificate {material.ca()}; ssl_verify_client optional;" if site == "clients" else ""
        module = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        load = f"load_module {module};" if module.exists() else ""
        key = server_key(site)
        config = material.folder / f"nginx-{site}.conf"
        config.write_text(
            f"{load} daemon off; pid {material.folder}/nginx.pid; error_log {material.folder}/nginx-error.log crit;\n"
            f"events {{}}\nstream {{ server {{ listen [::]:{port} ssl ipv6only=off; proxy_pass 127.0.0.1:{backend};\n"
            f" ssl_certificate {material.cert(key)}; ssl_certificate_key {material.key(key)};\n"
            f" ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m; ssl_alpn http/1.1; {verify} }} }}\n"
        )
        return [self.path, "-e", f"{material.folder}/nginx-error.log", "-c", str(config)]


SERVERS = {server.name: server for server in (Tlsidecar, HAProxy, Nginx)}


def free_port():
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::", 0))
        return listener.getsockname()[1]


def wait_for(port, process, log):
    for _ in range(200):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"it does not listen:\n{log.read_text()[-2000:]}")


class _Answer(socketserver.BaseRequestHandler):
    """Answers one HTTP/1.0 request, which is what the scripts ask, and closes as HTTP/1.0 does."""

    def handle(self):
        self.request.settimeout(60)
        asked = b""
        with contextlib.suppress(OSError):
            # Some scripts end their lines without the carriage return.
            while not asked.endswith((b"\r\n\r\n", b"\n\n")) and len(asked) < 1 << 20:
                some = self.request.recv(65536)
                if not some:
                    return
                asked += some
            self.request.sendall(ANSWER)


def serve_backend():
    """Starts the HTTP server that all servers dial, and returns its port."""
    socketserver.ThreadingTCPServer.daemon_threads = True
    socketserver.ThreadingTCPServer.request_queue_size = 512
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]
