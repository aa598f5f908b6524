"""Installs, upgrades and removes the Debian package in a Debian with systemd, in namespaces. Part of package.sh.

Its argument is the root of a Debian with /root/first.deb, second.deb and third.deb, which the check changes.
"""

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

from . import net
from .check import HERE, attempt, eventually, run
from .net import in_background
from .pki import self_signed

ROOT = pathlib.Path(sys.argv[-1])
ETC = ROOT / "etc/tlsidecar"
UNIT = "tlsidecar.service"
OVERRIDES = ROOT / "etc/systemd/system/tlsidecar.service.d"

steps = 0


def step(name):
    """Prints and counts a step."""
    global steps
    steps += 1
    print(f"  {name}", flush=True)


class Debian:
    """A Debian with systemd as PID 1."""

    def __init__(self):
        run("mount", "--make-rprivate", "/")
        run("ip", "link", "set", "lo", "up")
        # A new control group, or systemd would manage the machine's.
        self.groups = pathlib.Path(tempfile.mkdtemp(prefix="groups."))
        run("mount", "-t", "cgroup2", "cgroup2", str(self.groups))
        self.group = self.groups / f"tlsidecar-check-{os.getpid()}"
        self.group.mkdir()
        boot = HERE / "boot.sh"
        self.log = open(ROOT.with_suffix(".log"), "w+")
        self.unshare = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--fork", "--kill-child", str(boot), str(ROOT), str(self.group)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = None

    def up(self):
        def booted():
            assert self.unshare.poll() is None, f"it does not boot:\n{self.output()}"
            children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text()
            if not children:
                return False
            self.pid = children.split()[0]
            if pathlib.Path(f"/proc/{self.pid}/comm").read_text() != "systemd\n":
                return False
            return self("systemctl is-system-running", check=False)[1].strip() in ["running", "degraded"]
        eventually("systemd is up", booted)

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def __call__(self, command, check=True):
        """Runs a shell command in the Debian; returns its exit code and both outputs."""
        done = attempt("nsenter", "-t", self.pid, "-m", "-p", "-C", "-r", "-w", "env", "-i", "container=check",
                       "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "sh", "-c",
                       f"exec 2>&1; {command}")
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.returncode, done.stdout

    def failed(self):
        """Returns the failed units of the package. Others may fail: no modules can be loaded here."""
        return self("systemctl list-units --failed --no-legend --plain 'tlsidecar*'")[1]

    def show(self, *names):
        """Returns properties of the service."""
        shown = self(f"systemctl show {UNIT} --property={','.join(names)}")[1]
        values = dict(line.split("=", 1) for line in shown.splitlines())
        # systemctl may leave out empty properties.
        return values.get(names[0], "") if len(names) == 1 else [values.get(name, "") for name in names]

    def state(self):
        return "/".join(self.show("ActiveState", "SubState"))

    def running(self):
        """Returns the process ID once it has reported readiness. One request: between two the process may change."""
        pid, *state = self.show("MainPID", "ActiveState", "SubState")
        return pid if state == ["active", "running"] else None

    def ended_with(self):
        """Returns the exit code of the last process; None while one runs."""
        pid, code = self.show("MainPID", "ExecMainStatus")
        return code if pid == "0" else None

    def journal(self):
        # Wait for journald to read everything that was written.
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


class Backend:
    """The legacy server: an echo."""

    def __init__(self, listener):
        self.listener = listener
        in_background(self.serve)

    def serve(self):
        while True:
            in_background(self.echo, self.listener.accept()[0])

    @staticmethod
    def echo(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)


def device(port=8883):
    """Connects a device that sends data and receives it."""
    tls = device_over(socket.create_connection(("127.0.0.1", port), 30))
    talk(tls)
    return tls


def device_over(tcp):
    return net.over(tcp, str(ETC / "tls.crt"), "localhost")


def talk(tls):
    tls.sendall(b"Hello, server!")
    answer = tls.recv(100)
    assert answer == b"Hello, server!", answer


def serial(tls):
    return tls.getpeercert()["serialNumber"]


def refused():
    try:
        socket.create_connection(("127.0.0.1", 8883), 30).close()
    except ConnectionRefusedError:
        return True
    return False


def metric(name):
    text = net.http("http://127.0.0.1:9901/metrics")[1]
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
    """Returns mode and owner, by the names of the Debian."""
    done = DEBIAN(f"stat -c '%a %U:%G' {path}")
    return done[1].strip()


def configure(drain_timeout="2s"):
    """Follows the example: removes the # of lines without a space after it."""
    example = (ROOT / "usr/share/doc/tlsidecar/examples/tlsidecar.toml").read_text()
    text = re.sub(r"^#(?=[a-z\[])", "", example, flags=re.MULTILINE)
    assert "[[listener]]" in text.splitlines(), text
    # Shorter than the example's times, and all devices at once.
    text, found = re.subn(r"^drain_spread = .*\ndrain_timeout = .*$", f'drain_timeout = "{drain_timeout}"', text,
                          flags=re.MULTILINE)
    assert found == 1, text
    # In place, so that owner and mode stay. The backend is a name, which has to be resolved.
    (ETC / "tlsidecar.toml").write_text(text.replace("127.0.0.1:1883", "localhost:1883"))


def install(debian):
    step("install: neither enabled nor started")
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
                 "fish/vendor_completions.d/tlsidecar.fish", "doc/tlsidecar/systemd.md", "doc/tlsidecar/copyright",
                 "doc/tlsidecar/third-party.txt.gz", "doc/tlsidecar/changelog.gz", "doc/tlsidecar/changelog.Debian.gz",
                 "doc/tlsidecar/runbooks/TlsidecarDown.md", "doc/tlsidecar/examples/prometheus/rules/alerts.yml",
                 "doc/tlsidecar/examples/grafana/tlsidecar.json"]
    # dpkg can be configured to leave out documents, as in container images; this one is not.
    for document in documents:
        assert (ROOT / "usr/share" / document).stat().st_size > 100, document
    links()
    # A man page for the program and for each of the commands in its help.
    commands = re.search(r"^Commands:\n((?: .*\n)+)", debian("tlsidecar --help")[1], re.MULTILINE)[1]
    commands = set(re.findall(r"^  (\w+)", commands, re.MULTILINE)) - {"help"}
    pages = {page.name for page in (ROOT / "usr/share/man/man1").glob("tlsidecar*")}
    assert pages == {"tlsidecar.1.gz", *(f"tlsidecar-{command}.1.gz" for command in commands)}, (pages, commands)
    assert len(pages) > 5, pages
    debian("tlsidecar --version && systemd-analyze verify --man=no tlsidecar.service tlsidecar.socket")


def links():
    """Requires that the relative links of the installed pages lead to installed files."""
    pages = list((ROOT / "usr/share/doc/tlsidecar").rglob("*.md"))
    followed = 0
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), f"{page}: {link}"
                followed += 1
    assert len(pages) > 50 and followed > 100, (len(pages), followed)


def start_unconfigured(debian):
    step("start without a configuration: fails with a reason, and restarts")
    code, _ = debian(f"systemctl start {UNIT}", check=False)
    assert code != 0 or debian.state() == "activating/auto-restart", debian.state()
    eventually("it reports an invalid configuration", lambda: debian.ended_with() == "78")
    assert "listener" in debian.journal(), debian.journal()
    eventually("it restarts", lambda: int(debian.show("NRestarts")) > 0)
    debian(f"systemctl stop {UNIT}")
    debian(f"systemctl reset-failed {UNIT}", check=False)


def start(debian):
    step("start with the example's configuration: serves devices")
    (ROOT / "etc/hosts").write_text("127.0.0.1 localhost\n")
    configure()
    self_signed(ETC / "tls.crt", ETC / "tls.key", "localhost")
    debian("cd /etc/tlsidecar && chown root:tlsidecar tls.crt tls.key && chmod 0640 tls.crt tls.key")
    debian("runuser -u tlsidecar -- tlsidecar check --config /etc/tlsidecar/tlsidecar.toml")
    before = debian.journal()
    debian(f"systemctl enable --now {UNIT}")
    # The system-call filter blocks nothing that is needed.
    warnings = re.findall(r"^.*\bWARN\b.*$", debian.journal().removeprefix(before), re.MULTILINE)
    assert not warnings, warnings
    # `start` of a notify service returns when it is ready.
    assert debian.state() == "active/running", debian.state()
    assert debian.show("StatusText") == "listening on 1 listener", debian.show("StatusText")
    device().close()
    assert debian(f"ps -o user= -p {debian.show('MainPID')}")[1].strip() == "tlsidecar"
    # The unit's limits apply.
    limits = debian(f"cat /proc/{debian.show('MainPID')}/limits")[1]
    files = int(re.search(r"Max open files +\d+ +(\d+)", limits)[1])
    # This systemd may raise the limit only where this process may.
    assert files == min(524288, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) or files == 524288, limits
    assert re.search(r"Max core file size +0 +0 ", limits), limits
    # Reserved: 160 for the process, and two for the listener (docs/limits.md).
    assert metric('tlsidecar_connections_limit{listener="mqtt"}') == (files - 162) // 2


def reload(debian):
    step("certbot's hook installs a new certificate; open connections continue")
    opened = device()
    hook = "/usr/share/doc/tlsidecar/examples/certbot-deploy-hook.sh"
    lineage = ROOT / "root/live/tlsidecar"
    lineage.mkdir(parents=True)
    self_signed(lineage / "fullchain.pem", lineage / "privkey.pem", "localhost")
    debian(f"RENEWED_LINEAGE=/root/live/other {hook} && RENEWED_LINEAGE=/root/live/tlsidecar {hook}")
    assert owned("/etc/tlsidecar/tls.key") == "640 root:tlsidecar"
    before = serial(opened)

    def renewed():
        try:
            with device() as new:
                return serial(new) != before
        except ssl.SSLCertVerificationError:
            # The file is newer than the certificate in use.
            return False
    eventually("the new certificate is served", renewed)
    talk(opened)

    step("systemctl reload: an invalid file is rejected and reported")
    debian(f"systemctl reload {UNIT}")
    eventually("the reload is reported", lambda: "reload by signal: unchanged" in debian.show("StatusText"))
    good = (ETC / "tlsidecar.toml").read_text()
    (ETC / "tlsidecar.toml").write_text("rubbish")
    debian(f"systemctl reload {UNIT}")
    eventually("the reload is reported", lambda: "reload by signal: failed" in debian.show("StatusText"))
    assert debian.state() == "active/running", debian.state()
    (ETC / "tlsidecar.toml").write_text(good)
    debian(f"systemctl reload {UNIT}")
    eventually("the reload is reported", lambda: re.search("signal: (unchanged|swapped)", debian.show("StatusText")))
    talk(opened)
    opened.close()


def reload_by_notify(debian):
    version = int(re.search(r"systemd (\d+)", debian("systemctl --version")[1])[1])
    if version < 253:
        print(f"  - Type=notify-reload is not checked: this is systemd {version}")
        return
    step("Type=notify-reload: reload returns at its end")
    path = override(debian, "10-notify-reload.conf",
                    (ROOT / "usr/share/doc/tlsidecar/examples/tlsidecar.service.d/10-notify-reload.conf").read_text())
    override(debian, "20-restart-steps.conf",
             (ROOT / "usr/share/doc/tlsidecar/examples/tlsidecar.service.d/20-restart-steps.conf").read_text())
    warnings = debian("systemd-analyze verify --man=no tlsidecar.service")[1]
    assert not warnings, warnings
    debian(f"systemctl restart {UNIT}")
    assert debian.show("Type", "ExecReload") == ["notify-reload", ""], debian.show("Type", "ExecReload")
    before = metric('tlsidecar_reloads_total{outcome="unchanged"}')
    for nth in range(1, 4):
        debian(f"systemctl reload {UNIT}")
        # Without a wait.
        assert metric('tlsidecar_reloads_total{outcome="unchanged"}') == before + nth
    assert debian.state() == "active/running", debian.state()
    path.unlink()
    (OVERRIDES / "20-restart-steps.conf").unlink()
    debian(f"systemctl daemon-reload && systemctl restart {UNIT}")


def drop_ins(debian):
    step("drop-ins of docs/systemd.md: a port below 1024, and a backend's socket for its group")
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
    # Without them it fails.
    for _, name in blocks:
        (OVERRIDES / name).unlink()
    before = debian.journal()
    debian(f"systemctl daemon-reload && ! systemctl restart {UNIT}")
    assert "ermission denied" in debian.journal().removeprefix(before), debian.journal()
    configure()
    debian(f"systemctl restart {UNIT}")
    device().close()
    at.unlink()
    debian("groupdel legacy")


def stop(debian):
    step("stop: drains, reports its progress, and refuses new devices")
    configure("60s")
    debian(f"systemctl reload {UNIT}")
    # "unchanged" where the watch on the file was faster.
    eventually("the reload is reported", lambda: re.search("signal: (unchanged|swapped)", debian.show("StatusText")))
    opened = device()
    debian(f"systemctl stop --no-block {UNIT}")
    eventually("it drains", lambda: debian.show("StatusText") == "draining: 1 connection left")
    assert debian.state() == "deactivating/stop-sigterm", debian.state()
    eventually("new ones are refused", refused)
    talk(opened)
    opened.close()
    eventually("it has stopped", lambda: debian.state() == "inactive/dead")
    assert debian.show("Result", "ExecMainStatus") == ["success", "0"]

    step("stop with forced connections: no failure")
    configure("1s")
    debian(f"systemctl start {UNIT}")
    opened = device()
    debian(f"systemctl stop {UNIT}")
    assert debian.show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "1"], debian.journal()
    assert opened.recv(1) == b"", "a close_notify"

    step("stop with a drain longer than TimeoutStopSec: not interrupted")
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

    step("a port in use: the service fails, and restarts")
    with socket.create_server(("0.0.0.0", 8883)):
        debian(f"systemctl start {UNIT}", check=False)
        eventually("it restarts", lambda: int(debian.show("NRestarts")) > 0)
    eventually("the service runs", debian.running)
    device().close()


def watchdog(debian):
    step("watchdog: a stopped process is killed and started again")
    path = override(debian, "watchdog.conf", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    debian(f"systemctl restart {UNIT}")
    pid = debian.show("MainPID")
    # An idle process whose workers sleep stays alive: for three times the watchdog's time.
    time.sleep(6)
    assert debian.show("MainPID", "NRestarts") == [pid, "0"], debian.journal()
    debian(f"kill -STOP {pid}")
    eventually("it is started again", lambda: debian.running() not in [None, pid])
    assert "atchdog" in debian.journal(), debian.journal()
    device().close()
    path.unlink()
    debian(f"systemctl daemon-reload && systemctl restart {UNIT}")


def upgrade(debian):
    step("upgrade: the configuration and connections are unchanged")
    configured = (ETC / "tlsidecar.toml").read_text()
    pid = debian.show("MainPID")
    opened = device()
    _, output = debian("dpkg -i /root/second.deb")
    assert "systemctl restart tlsidecar" in output, output
    assert debian("dpkg-query -W -f '${Version}' tlsidecar")[1] == "1.0.1-1"
    assert debian.show("MainPID") == pid and debian.state() == "active/running"
    assert debian(f"systemctl is-enabled {UNIT}")[1] == "enabled\n"
    talk(opened)
    # The old process still accepts a reload.
    debian(f"systemctl reload {UNIT}")
    eventually("the reload is reported", lambda: "reload by signal: unchanged" in debian.show("StatusText"))
    opened.close()
    assert (ETC / "tlsidecar.toml").read_text() == configured
    assert owned("/etc/tlsidecar/tlsidecar.toml") == "640 root:tlsidecar"
    assert "(deleted)" in debian(f"readlink /proc/{pid}/exe")[1]
    debian(f"systemctl restart {UNIT}")
    assert "(deleted)" not in debian(f"readlink /proc/{debian.show('MainPID')}/exe")[1]
    device().close()


def socket_unit(debian):
    step("socket unit: restarts refuse no device")
    debian(f"systemctl stop {UNIT} && systemctl enable --now tlsidecar.socket")
    # The first device starts the service, and may be served before systemd has read the readiness message.
    device().close()
    eventually("systemd reports it running", debian.running)
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

    step("socket unit: a socket without a listener is reported at start")
    configure()
    text = (ETC / "tlsidecar.toml").read_text()
    assert "0.0.0.0:8883" in text
    (ETC / "tlsidecar.toml").write_text(text.replace("0.0.0.0:8883", "0.0.0.0:8884"))
    before = debian.journal()
    debian(f"systemctl restart {UNIT}", check=False)
    eventually("it reports an invalid configuration", lambda: debian.ended_with() == "78")
    assert "0.0.0.0:8883" in debian.journal().removeprefix(before), debian.journal()

    step("socket unit: devices that connect meanwhile keep the socket active, and are served after the repair")
    waiting, tried = [], int(debian.show("NRestarts"))

    def tried_again():
        waiting.append(socket.create_connection(("127.0.0.1", 8883), 30))
        return int(debian.show("NRestarts")) >= tried + 2
    eventually("it restarts", tried_again)
    assert debian("systemctl is-active tlsidecar.socket")[1] == "active\n"
    configure()
    eventually("the service runs", debian.running)
    talk(device_over(waiting[0]))
    for tcp in waiting[1:]:
        tcp.close()
    device().close()


def remove(debian):
    step("remove: stops the service and keeps the configuration")
    opened = device()
    debian("dpkg -r tlsidecar")
    assert opened.recv(1) == b"", "a close_notify"
    assert refused(), "the socket is closed as well"
    assert not (ROOT / "usr/bin/tlsidecar").exists()
    assert (ETC / "tlsidecar.toml").exists() and (ETC / "tls.key").exists()
    assert not debian.failed(), debian.failed()

    step("install again: as before")
    debian("dpkg -i /root/second.deb")
    assert debian(f"systemctl is-enabled {UNIT}")[1] == "enabled\n"
    debian(f"systemctl start {UNIT}")
    device().close()

    step("purge: removes user and configuration, and leaves keys to root only")
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

    step("upgrade with another example: keeps owner and mode, and those that an operator has set")
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

    step("purge without files of the operator: nothing is left")
    debian("dpkg -P tlsidecar")
    assert not ETC.exists()
    assert debian("getent passwd tlsidecar; getent group tlsidecar", check=False)[1] == ""


def main(_root):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
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
