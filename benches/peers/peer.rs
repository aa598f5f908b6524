//! The measured proxies, each configured as its manual recommends for this task.
//!
//! All have two workers, TLS 1.2 and 1.3, tickets, the same certificates and the same backend, and write no
//! logs. Only tlsidecar runs on its default settings and logs each connection. docs/performance-method.md has
//! the settings and their reasons.
//!
//! **Not here.** The loads (`load.rs`).

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::TcpStream;

use super::material::Material;
use super::process::Proxy;
use super::report::OURS;
use super::setup::Setup;

/// Addresses and certificates of one proxy in one load.
pub struct Site<'a> {
    pub material: &'a Material,
    pub setup: Setup,
    pub listen: SocketAddr,
    pub backend: SocketAddr,
}

/// A measured proxy.
pub struct Peer {
    pub name: &'static str,
    /// The program, or the variable with its path, and the arguments that print its version.
    program: &'static str,
    version: &'static [&'static str],
    command: fn(&Path, &Site<'_>) -> Command,
    /// Makes the proxy load a renewed certificate, if it needs a signal or command.
    reload: fn(&Proxy, &Site<'_>),
    /// The proxy terminates TLS. The baseline without TLS does not.
    pub tls: bool,
    /// The proxy ends live sessions of revoked devices.
    pub ends_sessions: bool,
}

/// All proxies, tlsidecar first.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "tlsidecar",
        program: env!("CARGO_BIN_EXE_tlsidecar"),
        version: &["--version"],
        command: tlsidecar,
        reload: |_, _| {},
        tls: true,
        ends_sessions: true,
    },
    // Another build of tlsidecar, to judge a change.
    Peer {
        name: "before",
        program: "tlsidecar-before",
        version: &["--version"],
        command: tlsidecar,
        reload: |_, _| {},
        tls: true,
        ends_sessions: true,
    },
    Peer {
        name: "HAProxy",
        program: "haproxy",
        version: &["-v"],
        command: haproxy_tls,
        reload: haproxy_reload,
        tls: true,
        ends_sessions: false,
    },
    // HAProxy with the same cryptography as tlsidecar.
    Peer {
        name: "HAProxy, AWS-LC",
        program: "$HAPROXY_AWSLC",
        version: &["-v"],
        command: haproxy_tls,
        reload: haproxy_reload,
        tls: true,
        ends_sessions: false,
    },
    Peer {
        name: "nginx",
        program: "nginx",
        version: &["-v"],
        command: nginx,
        reload: hang_up,
        tls: true,
        ends_sessions: false,
    },
    Peer {
        name: "hitch",
        program: "hitch",
        version: &["--version"],
        command: hitch,
        reload: hang_up,
        tls: true,
        ends_sessions: false,
    },
    Peer {
        name: "Envoy",
        program: "envoy",
        version: &["--version"],
        command: envoy,
        reload: |_, _| {},
        tls: true,
        ends_sessions: false,
    },
    Peer {
        name: "stunnel",
        program: "stunnel",
        version: &["-version"],
        command: stunnel,
        reload: hang_up,
        tls: true,
        ends_sessions: false,
    },
    Peer {
        name: "ghostunnel",
        program: "ghostunnel",
        version: &["--version"],
        command: ghostunnel,
        reload: hang_up,
        tls: true,
        ends_sessions: false,
    },
    Peer {
        name: PLAIN_RELAY,
        program: "/proc/self/exe",
        version: &["--version"],
        command: plain_relay,
        reload: |_, _| {},
        tls: false,
        ends_sessions: false,
    },
    Peer {
        name: "HAProxy, no TLS",
        program: "haproxy",
        version: &["-v"],
        command: haproxy_plain,
        reload: |_, _| {},
        tls: false,
        ends_sessions: false,
    },
];

/// The variable with the path of another build of tlsidecar, which is measured instead.
const OTHER_BUILD: &str = "TLSIDECAR_BENCH_PROGRAM";

/// Name of the minimal program that forwards TCP (`plain_relay.rs`).
pub const PLAIN_RELAY: &str = "plain relay";

/// Workers of each proxy.
pub const WORKERS: usize = 2;

/// Connections that every proxy must be able to hold.
const CONNECTIONS: usize = 9500;

impl Peer {
    /// Returns the first line of the program's version output; none if it is not installed.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(self.program()?).args(self.version).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().map(str::trim).find(|line| line.contains(char::is_numeric));
        Some(line.unwrap_or("?").to_owned())
    }

    /// Returns the path of the program; none if it is not installed.
    pub fn program(&self) -> Option<PathBuf> {
        if self.name == OURS
            && let Some(other) = std::env::var_os(OTHER_BUILD)
        {
            return Some(other.into());
        }
        if let Some(variable) = self.program.strip_prefix('$') {
            return std::env::var_os(variable).map(PathBuf::from).filter(|file| file.is_file());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = PathBuf::from(self.program);
        std::env::split_paths(&path).map(|dir| dir.join(&named)).find(|file| file.is_file())
    }

    /// Starts the proxy and waits until it listens. Returns the time of the start.
    pub async fn start(&self, site: &Site<'_>) -> Option<(Proxy, Duration)> {
        let command = (self.command)(&self.program()?, site);
        let start = Instant::now();
        let mut proxy = Proxy::spawn(command).ok()?;
        while TcpStream::connect(site.listen).await.is_err() {
            if !proxy.is_alive() || start.elapsed() > Duration::from_secs(10) {
                return None;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Some((proxy, start.elapsed()))
    }

    /// Makes a running proxy load the certificate that is in its files now.
    pub fn reload(&self, proxy: &Proxy, site: &Site<'_>) {
        (self.reload)(proxy, site);
    }
}

impl Site<'_> {
    fn cert(&self) -> String {
        self.material.cert(self.setup.key).display().to_string()
    }

    fn key(&self) -> String {
        self.material.key(self.setup.key).display().to_string()
    }

    fn pem(&self) -> String {
        self.material.pem(self.setup.key).display().to_string()
    }

    fn ca(&self) -> String {
        self.material.ca_file().display().to_string()
    }

    /// Returns the path of a file of one proxy, named by its port.
    fn file(&self, name: &str) -> PathBuf {
        self.material.dir().join(format!("{}-{name}", self.listen.port()))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).expect("the directory of the run is writable");
        path
    }

    /// Returns `text` if devices must send a certificate.
    fn if_client_auth(&self, text: String) -> String {
        if self.setup.client_auth { text } else { String::new() }
    }
}

fn hang_up(proxy: &Proxy, _: &Site<'_>) {
    proxy.signal(Signal::HUP);
}

fn tlsidecar(program: &Path, site: &Site<'_>) -> Command {
    let mut command = Command::new(program);
    command.env("TOKIO_WORKER_THREADS", WORKERS.to_string());
    if site.setup.crl {
        command.arg("--config").arg(site.write("tlsidecar.toml", &with_crl(site)));
        return command;
    }
    command.args(["--listen", &site.listen.to_string()]);
    command.args(["--backend", &site.backend.to_string(), "--admin", "127.0.0.1:0"]);
    command.args(["--cert", &site.cert(), "--key", &site.key()]);
    if site.setup.client_auth {
        command.args(["--client-ca", &site.ca()]);
    }
    command
}

/// Returns a configuration with a CRL, for which there is no flag.
fn with_crl(site: &Site<'_>) -> String {
    format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n[[listener]]\nname = \"bench\"\nlisten = \"{}\"\nbackend = \"{}\"\n\
         [listener.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n\
         client_auth = \"required\"\nclient_ca = {:?}\ncrls = [{:?}]\n",
        site.listen,
        site.backend,
        site.cert(),
        site.key(),
        site.ca(),
        site.material.crl_file(),
    )
}

/// Configures HAProxy as its start-up warnings advise: with timeouts and the suites of Mozilla's intermediate
/// list. `nbthread` is the manual's way to use several cores.
fn haproxy(program: &Path, site: &Site<'_>, bind: &str) -> Command {
    let text = format!(
        "global\n nbthread {WORKERS}\n maxconn {CONNECTIONS}\n stats socket {} level admin\n \
         ssl-default-bind-options ssl-min-ver TLSv1.2\n \
         ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256\n \
         ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         frontend f\n bind {}{bind}\n default_backend b\n\
         backend b\n server s {}\n",
        site.file("stats").display(),
        site.listen,
        site.backend,
    );
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(site.write("haproxy.cfg", &text));
    command
}

fn haproxy_tls(program: &Path, site: &Site<'_>) -> Command {
    let verify = site.if_client_auth(format!(" ca-file {} verify required", site.ca()));
    haproxy(program, site, &format!(" ssl crt {}{verify}", site.pem()))
}

fn haproxy_plain(program: &Path, site: &Site<'_>) -> Command {
    haproxy(program, site, "")
}

fn plain_relay(program: &Path, site: &Site<'_>) -> Command {
    let mut command = Command::new(program);
    command.args(["--relay", &site.listen.to_string(), "--to", &site.backend.to_string()]);
    command
}

/// Reloads through the runtime API, as HAProxy's management guide describes it for certificates.
fn haproxy_reload(_: &Proxy, site: &Site<'_>) {
    let (file, pem) = (site.pem(), fs::read_to_string(site.pem()).expect("it was written"));
    for line in [format!("set ssl cert {file} <<\n{pem}\n"), format!("commit ssl cert {file}\n")] {
        let mut socket = UnixStream::connect(site.file("stats")).expect("HAProxy runs");
        socket.write_all(line.as_bytes()).expect("HAProxy runs");
        let mut answer = String::new();
        let _ended = std::io::Read::read_to_string(&mut socket, &mut answer);
    }
}

/// Configures nginx with a shared session cache and a worker per core, as its guide to HTTPS servers advises,
/// and a listening socket for each worker.
fn nginx(program: &Path, site: &Site<'_>) -> Command {
    let verify =
        site.if_client_auth(format!("ssl_client_certificate {}; ssl_verify_client on;", site.ca()));
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let module = Path::new(module).exists().then(|| format!("load_module {module};"));
    let text = format!(
        "{}\nuser root; daemon off; worker_processes {WORKERS}; worker_rlimit_nofile 20000;\n\
         pid {}; error_log /dev/null crit;\n\
         events {{ worker_connections 20000; }}\n\
         stream {{ server {{\n listen {} ssl reuseport backlog=4096; proxy_pass {};\n \
         ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3;\n \
         ssl_session_cache shared:tls:10m; ssl_session_timeout 1h; {verify}\n \
         proxy_timeout 1h; tcp_nodelay on;\n}} }}\n",
        module.unwrap_or_default(),
        site.file("nginx.pid").display(),
        site.listen,
        site.backend,
        site.cert(),
        site.key(),
    );
    let mut command = Command::new(program);
    command.arg("-e").arg("/dev/null").arg("-c").arg(site.write("nginx.conf", &text));
    command
}

fn hitch(program: &Path, site: &Site<'_>) -> Command {
    let verify = site.if_client_auth(format!(
        "client-verify = required\nclient-verify-ca = \"{}\"\n",
        site.ca()
    ));
    let text = format!(
        "frontend = {{ host = \"{}\" port = \"{}\" }}\nbackend = \"[{}]:{}\"\n\
         pem-file = \"{}\"\nworkers = {WORKERS}\nbacklog = 4096\ndaemon = off\nlog-level = 0\n\
         user = \"nobody\"\ntls-protos = TLSv1.2 TLSv1.3\n{verify}",
        site.listen.ip(),
        site.listen.port(),
        site.backend.ip(),
        site.backend.port(),
        site.pem(),
    );
    let mut command = Command::new(program);
    command.arg(format!("--config={}", site.write("hitch.conf", &text).display()));
    command
}

/// Configures stunnel. Its only model here is one thread per connection, on all cores.
fn stunnel(program: &Path, site: &Site<'_>) -> Command {
    let verify = site
        .if_client_auth(format!("CAfile = {}\nverifyChain = yes\nrequireCert = yes\n", site.ca()));
    let text = format!(
        "foreground = yes\npid =\ndebug = 0\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [tls]\naccept = {}\nconnect = {}\ncert = {}\nsslVersionMin = TLSv1.2\n{verify}",
        site.listen,
        site.backend,
        site.pem(),
    );
    let mut command = Command::new(program);
    command.arg(site.write("stunnel.conf", &text));
    command
}

fn ghostunnel(program: &Path, site: &Site<'_>) -> Command {
    let mut command = Command::new(program);
    command.env("GOMAXPROCS", WORKERS.to_string());
    command.args(["server", "--quiet=all", "--timed-reload=1s"]);
    command.args(["--listen", &site.listen.to_string(), "--target", &site.backend.to_string()]);
    command.args(["--cert", &site.cert(), "--key", &site.key()]);
    if site.setup.client_auth {
        command.args(["--cacert", &site.ca(), "--allow-all"]);
    } else {
        command.arg("--disable-authentication");
    }
    command
}

/// Configures Envoy with file-based SDS and a watched directory, its way to reload certificates, and with
/// circuit breakers that never open, as its guide for edge proxies recommends for plain TCP.
fn envoy(program: &Path, site: &Site<'_>) -> Command {
    let sds = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  \
         name: server\n  tls_certificate:\n    \
         watched_directory: {{ path: {dir} }}\n    \
         certificate_chain: {{ filename: {cert} }}\n    private_key: {{ filename: {key} }}\n",
        dir = site.material.dir().display(),
        cert = site.cert(),
        key = site.key(),
    );
    let sds = site.write("sds.yaml", &sds);
    let verify = site.if_client_auth(format!(
        "\n            require_client_certificate: true\n            common_tls_context:\n              \
         validation_context: {{ trusted_ca: {{ filename: {} }} }}",
        site.ca()
    ));
    let common =
        if verify.is_empty() { "\n            common_tls_context:".to_owned() } else { verify };
    let text = format!(
        "static_resources:
  listeners:
  - address: {{ socket_address: {{ address: {listen_ip}, port_value: {listen_port} }} }}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: backend
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext{common}
              tls_params: {{ tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3 }}
              tls_certificate_sds_secret_configs:
              - name: server
                sds_config: {{ path_config_source: {{ path: {sds} }} }}
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{ thresholds: [ {{ max_connections: 100000, max_pending_requests: 100000 }} ] }}
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {backend_ip}, port_value: {backend_port} }} }} }}
",
        listen_ip = site.listen.ip(),
        listen_port = site.listen.port(),
        sds = sds.display(),
        backend_ip = site.backend.ip(),
        backend_port = site.backend.port(),
    );
    let mut command = Command::new(program);
    command.args(["--concurrency", &WORKERS.to_string(), "--disable-hot-restart", "-l", "off"]);
    command.args(["--service-node", "bench", "--service-cluster", "bench"]);
    command.arg("-c").arg(site.write("envoy.yaml", &text));
    command
}
