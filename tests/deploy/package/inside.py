#!/usr/bin/env python3
"""The steps of tests/deploy/package.sh, in namespaces that it has made. Its argument is the root of a Debian
with /root/first.deb, second.deb and third.deb, which is changed."""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(sys.argv[1])
ETC = ROOT / "etc/tlsidecar"
PATIENCE = 30
UNIT = "tlsidecar.service"
OVERRIDES = ROOT / "etc/systemd/system/tlsidecar.service.d"

steps = 0


def step(name):
    """Names what follows."""
    global steps
    steps += 1
    print(f"  {name}", flush=True)


def run(*command, check=True):
    """Runs a program beside the Debian; returns its code and what it wrote to both."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          text=True, timeout=120)
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
    return done.returncode, done.stdout


def eventually(what, condition, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.05)
    return found


class Debian:
    """A Debian with systemd as PID 1."""

    def __init__(self):
        run("mount", "--make-rprivate", "/")
        run("ip", "link", "set", "lo", "up")
        # A control group of its own, or systemd would take the machine's for its own.
        self.groups = pathlib.Path(tempfile.mkdtemp(prefix="groups."))
        run("mount", "-t", "cgroup2", "cgroup2", str(self.groups))
        self.group = self.groups / f"tlsidecar-check-{os.getpid()}"
        self.group.mkdir()
        boot = pathlib.Path(__file__).with_name("boot.sh")
        self.log = open(ROOT.with_suffix(".log"), "w+")
        self.unshare = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--fork", "--kill-child", str(boot), str(ROOT), str(self.group)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = None

    def up(self):
        def booted():
            assert self.unshare.poll() is None, f"it does not boot:\n{self.said()}"
            children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text()
            if not children:
                return False
            self.pid = children.split()[0]
            if pathlib.Path(f"/proc/{self.pid}/comm").read_text() != "systemd\n":
                return False
            return self("systemctl is-system-running", check=False)[1].strip() in ["running", "degraded"]
        eventually("systemd is up", booted)

    def said(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def __call__(self, command, check=True):
        """Runs a command of the shell inside."""
        return run("nsenter", "-t", self.pid, "-m", "-p", "-C", "-r", "-w", "env", "-i", "container=check",
                   "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", command,
                   check=check)

    def failed(self):
        """Units of ours that have failed. Others may: no modules can be loaded here."""
        return self("systemctl list-units --failed --no-legend --plain 'tlsidecar*'")[1]

    def show(self, *names):
        """Properties of the service."""
        shown = self(f"systemctl show {UNIT} --property={','.join(names)}")[1]
        values = dict(line.split("=", 1) for line in shown.splitlines())
        # What is empty may be left out.
        return values.get(names[0], "") if len(names) == 1 else [values.get(name, "") for name in names]

    def state(self):
        return "/".join(self.show("ActiveState", "SubState"))

    def running(self):
        """The process that serves and has said so; none while there is none. Asked in one go: between two
        questions the one may go and the other come."""
        pid, *state = self.show("MainPID", "ActiveState", "SubState")
        return pid if state == ["active", "running"] else None

    def ended_with(self):
        """The code that the last process ended with; none while one runs."""
        pid, code = self.show("MainPID", "ExecMainStatus")
        return code if pid == "0" else None

    def journal(self):
        # What was written, and not only what journald has come round to reading.
        return self(f"journalctl --sync && journalctl --no-pager -o cat -u {UNIT}")[1]

    def down(self):
        self.unshare.kill()
        self.unshare.wait()
        eventually("the control groups are empty", self.tidied)
        run("umount", str(self.groups))
        self.groups.rmdir()

    def tidied(self):
        for group in sorted(self.group.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            self.group.rmdir()
        return not self.group.exists()


class Backend(threading.Thread):
    """The legacy server: an echo."""

    def __init__(self, listener):
        super().__init__(daemon=True)
        self.listener = listener
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.echo, args=[connection], daemon=True).start()

    @staticmethod
    def echo(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)


def device(port=8883):
    """A device that has connected and been answered."""
    tls = device_over(socket.create_connection(("127.0.0.1", port), PATIENCE))
    talk(tls)
    return tls


def device_over(tcp):
    context = ssl.create_default_context(cafile=str(ETC / "tls.crt"))
    return context.wrap_socket(tcp, server_hostname="localhost")


def talk(tls):
    tls.sendall(b"Hello, server!")
    answer = tls.recv(100)
    assert answer == b"Hello, server!", answer


def serial(tls):
    return tls.getpeercert()["serialNumber"]


def refused():
    try:
        socket.create_connection(("127.0.0.1", 8883), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def certificate(into, cert, key):
    """Makes a certificate for localhost, which is its own CA."""
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{into}/{key}",
        "-out", f"{into}/{cert}")


def metric(name):
    with socket.create_connection(("127.0.0.1", 9901), PATIENCE) as tcp:
        tcp.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: tcp.recv(65536), b"")).decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in\n{text}"
    return float(found[1])


def override(debian, name, text):
    OVERRIDES.mkdir(parents=True, exist_ok=True)
    path = OVERRIDES / name
    path.write_text(text)
    debian("systemctl daemon-reload")
    return path


def owned(path):
    """Mode and owner, as the Debian sees them."""
    done = DEBIAN(f"stat -c '%a %U:%G' {path}")
    return done[1].strip()


def configure(drain_timeout="2s"):
    """Does what the example says: takes the # off the lines that have no space after it."""
    example = (ROOT / "usr/share/doc/tlsidecar/examples/tlsidecar.toml").read_text()
    text = re.sub(r"^#(?=[a-z\[])", "", example, flags=re.MULTILINE)
    assert "[[listener]]" in text.splitlines(), text
    # In place, so that owner and mode stay. A backend by its name, which has to be looked up.
    (ETC / "tlsidecar.toml").write_text(text.replace("127.0.0.1:1883", "localhost:1883")
                                        + f"[shutdown]\ndrain_timeout = \"{drain_timeout}\"\n")


def install(debian):
    step("installs, and is neither enabled nor started")
    debian("dpkg -i /root/first.deb")
    assert debian(f"systemctl is-enabled {UNIT}", check=False)[1] == "disabled\n"
    assert debian("systemctl is-enabled tlsidecar.socket", check=False)[1] == "disabled\n"
    assert debian.state() == "inactive/dead", debian.state()
    assert owned("/etc/tlsidecar") == "750 root:tlsidecar", owned("/etc/tlsidecar")
    assert owned("/etc/tlsidecar/tlsidecar.toml") == "640 root:tlsidecar"
    assert owned("/usr/bin/tlsidecar") == "755 root:root"
    assert "/etc/tlsidecar/tlsidecar.toml" in debian("dpkg-query -W -f '${Conffiles}' tlsidecar")[1]
    assert "procps" in debian("dpkg-query -W -f '${Depends}' tlsidecar")[1]
    user = debian("getent passwd tlsidecar")[1]
    assert user.strip().endswith("/nologin"), user
    documents = ["bash-completion/completions/tlsidecar", "zsh/vendor-completions/_tlsidecar",
                 "fish/vendor_completions.d/tlsidecar.fish", "doc/tlsidecar/systemd.md", "doc/tlsidecar/copyright"]
    # dpkg may be told to leave documents out, as in container images; this one is not.
    for document in documents:
        assert (ROOT / "usr/share" / document).stat().st_size > 100, document
    # A page for the program and for each of its commands, by what it says itself.
    commands = re.search(r"^Commands:\n((?: .*\n)+)", debian("tlsidecar --help")[1], re.MULTILINE)[1]
    commands = set(re.findall(r"^  (\w+)", commands, re.MULTILINE)) - {"help"}
    pages = {page.name for page in (ROOT / "usr/share/man/man1").glob("tlsidecar*")}
    assert pages == {"tlsidecar.1.gz", *(f"tlsidecar-{command}.1.gz" for command in commands)}, (pages, commands)
    assert len(pages) > 5, pages
    debian("tlsidecar --version && systemd-analyze verify --man=no tlsidecar.service tlsidecar.socket")


def start_unconfigured(debian):
    step("without a configuration it does not start, says why, and tries again")
    code, _ = debian(f"systemctl start {UNIT}", check=False)
    assert code != 0 or debian.state() == "activating/auto-restart", debian.state()
    eventually("it says that its configuration is wrong", lambda: debian.ended_with() == "78")
    assert "listener" in debian.journal(), debian.journal()
    eventually("it tries again", lambda: int(debian.show("NRestarts")) > 0)
    debian(f"systemctl stop {UNIT}")
    debian(f"systemctl reset-failed {UNIT}", check=False)


def start(debian):
    step("with the example's configuration it starts, and serves")
    (ROOT / "etc/hosts").write_text("127.0.0.1 localhost\n")
    configure()
    certificate(ETC, "tls.crt", "tls.key")
    debian("cd /etc/tlsidecar && chown root:tlsidecar tls.crt tls.key && chmod 0640 tls.crt tls.key")
    debian("runuser -u tlsidecar -- tlsidecar check --config /etc/tlsidecar/tlsidecar.toml")
    told_before = debian.journal()
    debian(f"systemctl enable --now {UNIT}")
    # The filter of system calls is in nobody's way.
    warnings = re.findall(r"^.*\bWARN\b.*$", debian.journal().removeprefix(told_before), re.MULTILINE)
    assert not warnings, warnings
    # `start` of a notify service returns when it is ready.
    assert debian.state() == "active/running", debian.state()
    assert debian.show("StatusText") == "listening on 1 listener", debian.show("StatusText")
    device().close()
    assert debian(f"ps -o user= -p {debian.show('MainPID')}")[1].strip() == "tlsidecar"
    # The limits hold.
    limits = debian(f"cat /proc/{debian.show('MainPID')}/limits")[1]
    files = int(re.search(r"Max open files +\d+ +(\d+)", limits)[1])
    # Where we may not raise the limit, neither may this systemd.
    assert files == min(524288, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) or files == 524288, limits
    assert re.search(r"Max core file size +0 +0 ", limits), limits
    # Set aside: 160 for the process itself, and two of the listener (docs/limits.md).
    assert metric('tlsidecar_connections_limit{listener="mqtt"}') == (files - 162) // 2


def reload(debian):
    step("certbot's hook brings a new certificate, and open connections stay")
    opened = device()
    hook = "/usr/share/doc/tlsidecar/examples/certbot-deploy-hook.sh"
    lineage = ROOT / "root/live/tlsidecar"
    lineage.mkdir(parents=True)
    certificate(lineage, "fullchain.pem", "privkey.pem")
    debian(f"RENEWED_LINEAGE=/root/live/other {hook} && RENEWED_LINEAGE=/root/live/tlsidecar {hook}")
    assert owned("/etc/tlsidecar/tls.key") == "640 root:tlsidecar"
    before = serial(opened)

    def renewed():
        try:
            with device() as new:
                return serial(new) != before
        except ssl.SSLCertVerificationError:
            # The file is newer than what is in force.
            return False
    eventually("it is in force", renewed)
    talk(opened)

    step("systemctl reload reloads; a bad file is refused and told")
    debian(f"systemctl reload {UNIT}")
    eventually("it is told", lambda: "reload by signal: unchanged" in debian.show("StatusText"))
    good = (ETC / "tlsidecar.toml").read_text()
    (ETC / "tlsidecar.toml").write_text("rubbish")
    debian(f"systemctl reload {UNIT}")
    eventually("it is told", lambda: "reload by signal: failed" in debian.show("StatusText"))
    assert debian.state() == "active/running", debian.state()
    (ETC / "tlsidecar.toml").write_text(good)
    debian(f"systemctl reload {UNIT}")
    eventually("it is told", lambda: re.search("signal: (unchanged|swapped)", debian.show("StatusText")))
    talk(opened)
    opened.close()


def reload_by_notify(debian):
    version = int(re.search(r"systemd (\d+)", debian("systemctl --version")[1])[1])
    if version < 253:
        print(f"  - Type=notify-reload is not checked: this is systemd {version}")
        return
    step("with Type=notify-reload, reload returns when it is over")
    path = override(debian, "10-notify-reload.conf",
                    (ROOT / "usr/share/doc/tlsidecar/examples/tlsidecar.service.d/10-notify-reload.conf").read_text())
    override(debian, "20-restart-steps.conf",
             (ROOT / "usr/share/doc/tlsidecar/examples/tlsidecar.service.d/20-restart-steps.conf").read_text())
    said = debian("systemd-analyze verify --man=no tlsidecar.service")[1]
    assert not said, said
    debian(f"systemctl restart {UNIT}")
    assert debian.show("Type", "ExecReload") == ["notify-reload", ""], debian.show("Type", "ExecReload")
    before = metric('tlsidecar_reloads_total{outcome="unchanged"}')
    for nth in range(1, 4):
        debian(f"systemctl reload {UNIT}")
        # At once, without waiting.
        assert metric('tlsidecar_reloads_total{outcome="unchanged"}') == before + nth
    assert debian.state() == "active/running", debian.state()
    path.unlink()
    (OVERRIDES / "20-restart-steps.conf").unlink()
    debian(f"systemctl daemon-reload && systemctl restart {UNIT}")


def drop_ins(debian):
    step("with the document's drop-ins: a port below 1024, and a backend's socket that is for its group")
    page = (ROOT / "usr/share/doc/tlsidecar/systemd.md").read_text()
    blocks = re.findall(r"```ini\n(# /etc/systemd/system/tlsidecar.service.d/(\S+)\n.*?)```", page, re.DOTALL)
    assert [name for _, name in blocks] == ["low-port.conf", "backend-group.conf"], blocks
    debian("groupadd --system legacy")
    at = ROOT / "srv/legacy.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(at))
    listener.listen(16)
    Backend(listener)
    debian("chown root:legacy /srv/legacy.sock && chmod 0660 /srv/legacy.sock")
    configure()
    text = (ETC / "tlsidecar.toml").read_text()
    changed = text.replace(":8883", ":443").replace("localhost:1883", "unix:/srv/legacy.sock")
    (ETC / "tlsidecar.toml").write_text(changed)
    for block, name in blocks:
        override(debian, name, block)
    debian(f"systemctl restart {UNIT}")
    device(443).close()
    # Without them it cannot.
    for _, name in blocks:
        (OVERRIDES / name).unlink()
    told_before = debian.journal()
    debian(f"systemctl daemon-reload && ! systemctl restart {UNIT}")
    assert "ermission denied" in debian.journal().removeprefix(told_before), debian.journal()
    configure()
    debian(f"systemctl restart {UNIT}")
    device().close()
    at.unlink()
    debian("groupdel legacy")


def stop(debian):
    step("stop drains, tells how far it is, and refuses new devices")
    configure("60s")
    debian(f"systemctl reload {UNIT}")
    # Unchanged, where the change of the file was seen before.
    eventually("it is told", lambda: re.search("signal: (unchanged|swapped)", debian.show("StatusText")))
    opened = device()
    debian(f"systemctl stop --no-block {UNIT}")
    eventually("it drains", lambda: debian.show("StatusText") == "draining: 1 connection left")
    assert debian.state() == "deactivating/stop-sigterm", debian.state()
    eventually("new ones are refused", refused)
    talk(opened)
    opened.close()
    eventually("it has stopped", lambda: debian.state() == "inactive/dead")
    assert debian.show("Result", "ExecMainStatus") == ["success", "0"]

    step("a stop that had to force connections is no failure")
    configure("1s")
    debian(f"systemctl start {UNIT}")
    opened = device()
    debian(f"systemctl stop {UNIT}")
    assert debian.show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "1"], debian.journal()
    assert opened.recv(1) == b"", "a close_notify"

    step("a drain that is longer than TimeoutStopSec has its time")
    configure("6s")
    path = override(debian, "timeout.conf", "[Service]\nTimeoutStopSec=2s\n")
    debian(f"systemctl start {UNIT}")
    opened = device()
    began = time.monotonic()
    debian(f"systemctl stop {UNIT}")
    assert time.monotonic() - began > 5.9
    assert debian.show("Result", "ExecMainStatus") == ["success", "1"], debian.journal()
    assert opened.recv(1) == b"", "a close_notify"
    path.unlink()
    configure()
    debian("systemctl daemon-reload")

    step("a port in use is a failure, and is tried again")
    with socket.create_server(("0.0.0.0", 8883)):
        debian(f"systemctl start {UNIT}", check=False)
        eventually("it tries again", lambda: int(debian.show("NRestarts")) > 0)
    eventually("it is there", debian.running)
    device().close()


def watchdog(debian):
    step("one that stands still is killed and started again")
    path = override(debian, "watchdog.conf", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    debian(f"systemctl restart {UNIT}")
    pid = debian.show("MainPID")
    # It lives as long as it turns, also where nothing happens and its workers sleep: three times the
    # watchdog's.
    time.sleep(6)
    assert debian.show("MainPID", "NRestarts") == [pid, "0"], debian.journal()
    debian(f"kill -STOP {pid}")
    eventually("it is started again", lambda: debian.running() not in [None, pid])
    assert "atchdog" in debian.journal(), debian.journal()
    device().close()
    path.unlink()
    debian(f"systemctl daemon-reload && systemctl restart {UNIT}")


def upgrade(debian):
    step("an upgrade touches neither the configuration nor a connection")
    configured = (ETC / "tlsidecar.toml").read_text()
    pid = debian.show("MainPID")
    opened = device()
    _, said = debian("dpkg -i /root/second.deb")
    assert "systemctl restart tlsidecar" in said, said
    assert debian("dpkg-query -W -f '${Version}' tlsidecar")[1] == "1.0.1-1"
    assert debian.show("MainPID") == pid and debian.state() == "active/running"
    assert debian(f"systemctl is-enabled {UNIT}")[1] == "enabled\n"
    talk(opened)
    # The old process still reloads.
    debian(f"systemctl reload {UNIT}")
    eventually("it is told", lambda: "reload by signal: unchanged" in debian.show("StatusText"))
    opened.close()
    assert (ETC / "tlsidecar.toml").read_text() == configured
    assert owned("/etc/tlsidecar/tlsidecar.toml") == "640 root:tlsidecar"
    assert "(deleted)" in debian(f"readlink /proc/{pid}/exe")[1]
    debian(f"systemctl restart {UNIT}")
    assert "(deleted)" not in debian(f"readlink /proc/{debian.show('MainPID')}/exe")[1]
    device().close()


def socket_unit(debian):
    step("with the socket unit, restarts refuse no device")
    debian(f"systemctl stop {UNIT} && systemctl enable --now tlsidecar.socket")
    # The first device starts it, and may be answered before systemd has read that it is ready.
    device().close()
    eventually("systemd knows", debian.running)
    ended, served, problems = threading.Event(), [], []

    def connect_on_and_on():
        while not ended.is_set():
            try:
                device().close()
                served.append(time.monotonic())
            except OSError as error:
                problems.append(error)
    devices = [threading.Thread(target=connect_on_and_on) for _ in range(4)]
    for thread in devices:
        thread.start()
    restarts = 3
    for _ in range(restarts):
        before = len(served)
        eventually("devices are served", lambda: len(served) > before + 20)
        debian(f"systemctl restart {UNIT}")
    before = len(served)
    eventually("devices are served", lambda: len(served) > before + 20)
    ended.set()
    for thread in devices:
        thread.join()
    assert not problems, f"{len(problems)} of {len(served)}, such as {problems[0]!r}"
    print(f"    {len(served)} devices, {restarts} restarts, none refused")

    step("a socket that is no listener's is told at start")
    configure()
    text = (ETC / "tlsidecar.toml").read_text()
    assert "0.0.0.0:8883" in text
    (ETC / "tlsidecar.toml").write_text(text.replace("0.0.0.0:8883", "0.0.0.0:8884"))
    told_before = debian.journal()
    debian(f"systemctl restart {UNIT}", check=False)
    eventually("it says that its configuration is wrong", lambda: debian.ended_with() == "78")
    assert "0.0.0.0:8883" in debian.journal().removeprefix(told_before), debian.journal()

    step("devices that knock meanwhile do not cost the socket, and are served once it is mended")
    waiting, tried = [], int(debian.show("NRestarts"))

    def tried_again():
        waiting.append(socket.create_connection(("127.0.0.1", 8883), PATIENCE))
        return int(debian.show("NRestarts")) >= tried + 2
    eventually("it tries again", tried_again)
    assert debian("systemctl is-active tlsidecar.socket")[1] == "active\n"
    configure()
    eventually("it is there", debian.running)
    talk(device_over(waiting[0]))
    for tcp in waiting[1:]:
        tcp.close()
    device().close()


def remove(debian):
    step("remove stops it and keeps the configuration")
    opened = device()
    debian("dpkg -r tlsidecar")
    assert opened.recv(1) == b"", "a close_notify"
    assert refused(), "the socket is closed as well"
    assert not (ROOT / "usr/bin/tlsidecar").exists()
    assert (ETC / "tlsidecar.toml").exists() and (ETC / "tls.key").exists()
    assert not debian.failed(), debian.failed()

    step("installed again, it is as it was")
    debian("dpkg -i /root/second.deb")
    assert debian(f"systemctl is-enabled {UNIT}")[1] == "enabled\n"
    debian(f"systemctl start {UNIT}")
    device().close()

    step("purge takes user and configuration away, and leaves keys to root alone")
    debian("dpkg -P tlsidecar")
    assert refused()
    assert debian("getent passwd tlsidecar; getent group tlsidecar", check=False)[1] == ""
    assert not (ETC / "tlsidecar.toml").exists()
    assert owned("/etc/tlsidecar") == "700 root:root", owned("/etc/tlsidecar")
    assert owned("/etc/tlsidecar/tls.key").endswith(" root:root")
    debian("! systemctl cat tlsidecar.service && ! systemctl cat tlsidecar.socket")
    left = debian("find / -xdev -name '*tlsidecar*' -not -path '/root/*' -not -path '/proc/*' "
                  "-not -path '/etc/systemd/system/tlsidecar.service.d*' -not -path '/run/*' -not -path '/sys/*'")[1]
    assert left.split() == ["/etc/tlsidecar"], left
    assert not debian.failed(), debian.failed()

    step("an upgrade that brings another example keeps owner and mode, and what an operator has set")
    shutil.rmtree(ETC)
    debian("dpkg -i /root/first.deb")
    before = (ETC / "tlsidecar.toml").read_text()
    debian("dpkg -i /root/third.deb")
    assert (ETC / "tlsidecar.toml").read_text() != before
    assert owned("/etc/tlsidecar/tlsidecar.toml") == "640 root:tlsidecar", owned("/etc/tlsidecar/tlsidecar.toml")
    debian("chmod 0600 /etc/tlsidecar/tlsidecar.toml && chown tlsidecar: /etc/tlsidecar/tlsidecar.toml")
    debian("dpkg -i /root/first.deb")
    assert owned("/etc/tlsidecar/tlsidecar.toml") == "600 tlsidecar:tlsidecar"
    assert owned("/etc/tlsidecar") == "750 root:tlsidecar", owned("/etc/tlsidecar")

    step("purged with nothing of the operator's, nothing is left")
    debian("dpkg -P tlsidecar")
    assert not ETC.exists()
    assert debian("getent passwd tlsidecar; getent group tlsidecar", check=False)[1] == ""


def main():
    began = time.monotonic()
    debian = globals()["DEBIAN"] = Debian()
    try:
        debian.up()
        version = debian("systemctl --version")[1].splitlines()[0]
        print(f"{ROOT.name}, {version}:", flush=True)
        Backend(socket.create_server(("127.0.0.1", 1883), backlog=1024))
        for part in [install, start_unconfigured, start, reload, reload_by_notify, drop_ins, stop, watchdog, upgrade,
                     socket_unit, remove]:
            part(debian)
    except BaseException:
        with contextlib.suppress(Exception):
            print(debian("journalctl --no-pager -n 60")[1], file=sys.stderr)
        raise
    finally:
        debian.down()
    assert steps > 12, steps
    print(f"{ROOT.name}: {steps} steps in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    main()
