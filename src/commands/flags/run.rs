//! The flags of a run: a configuration file, or one listener.
//!
//! **Promises.** Every flag has an environment variable, `TLSIDECAR_` and its name.
//!
//! **Not here.** The configuration file (`config/file.rs`), the variables that are not used (`environment.rs`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::config::file::{ConfigError, ConfigSource, Overrides, below};
use crate::config::values::ListenAddress;
use crate::config::{
    AdminListen, BackendAddress, CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig,
};
use crate::logging::{Filter, Format};
use crate::value::{parse, parse_into};

/// The flags of a run: a configuration file, or one listener.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file. "-": standard input, which is read once.
    #[arg(short, long, env = "TLSIDECAR_CONFIG", value_name = "FILE", conflicts_with_all = ["listen", "backend", "cert", "key", "client_ca"])]
    pub config: Option<PathBuf>,
    /// The address that devices connect to, such as 0.0.0.0:8883, or :8883 for all addresses.
    #[arg(long, env = "TLSIDECAR_LISTEN", value_name = "ADDR", value_parser = parse_into::<ListenAddress, SocketAddr>, required_unless_present = "config")]
    pub listen: Option<SocketAddr>,
    /// The legacy server: host:port, tcp://host:port or unix:/path.
    #[arg(long, env = "TLSIDECAR_BACKEND", value_name = "ADDR", value_parser = parse::<BackendAddress>, required_unless_present = "config")]
    pub backend: Option<BackendAddress>,
    /// The certificate chain in PEM, the server certificate first.
    #[arg(long, env = "TLSIDECAR_CERT", value_name = "FILE", required_unless_present = "config")]
    pub cert: Option<PathBuf>,
    /// The private key of the server certificate in PEM.
    #[arg(long, env = "TLSIDECAR_KEY", value_name = "FILE", required_unless_present = "config")]
    pub key: Option<PathBuf>,
    /// Require client certificates issued by these CAs, a bundle in PEM.
    #[arg(long, env = "TLSIDECAR_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The address of the admin port, instead of 127.0.0.1:9901 or the file's. "off": no port.
    #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = parse::<AdminListen>)]
    pub admin: Option<AdminListen>,
    /// An address for metrics and probes alone, instead of the file's.
    #[arg(long, env = "TLSIDECAR_METRICS_LISTEN", value_name = "ADDR", value_parser = parse_into::<ListenAddress, SocketAddr>)]
    pub metrics_listen: Option<SocketAddr>,
    /// Log levels in the syntax of RUST_LOG, such as info,access=warn, instead of the file's.
    #[arg(long, env = "TLSIDECAR_LOG_FILTER", value_name = "FILTER", value_parser = parse::<Filter>)]
    pub log_filter: Option<Filter>,
    /// The format of log lines, "text" or "json", instead of the file's.
    #[arg(long, env = "TLSIDECAR_LOG_FORMAT", value_name = "FORMAT", value_parser = parse::<Format>)]
    pub log_format: Option<Format>,
    /// Allow core dumps and debuggers, which can read the private keys.
    #[arg(long, env = "TLSIDECAR_DUMPABLE", value_parser = BoolishValueParser::new())]
    pub dumpable: bool,
}

impl RunArgs {
    /// Returns the configuration, and its source if a reload can read that again. Absolute paths of the configuration
    /// are looked up below `root`, if there is one.
    ///
    /// # Errors
    /// The problems of the file.
    pub fn configuration(
        &self,
        root: Option<&Path>,
    ) -> Result<(Config, Option<ConfigSource>), ConfigError> {
        match &self.config {
            Some(path) => self.read(path.clone(), root),
            None => {
                let mut config = Config::of(self.listener(root));
                self.overrides(root).apply(&mut config);
                Ok((config, None))
            }
        }
    }

    /// Reads a file, or standard input.
    pub(super) fn read(
        &self,
        path: PathBuf,
        root: Option<&Path>,
    ) -> Result<(Config, Option<ConfigSource>), ConfigError> {
        let source = ConfigSource { path, overrides: self.overrides(root) };
        let config = source.load()?;
        Ok((config, Some(source).filter(|source| !source.is_standard_input())))
    }

    fn overrides(&self, root: Option<&Path>) -> Overrides {
        Overrides {
            admin: self.admin,
            metrics_listen: self.metrics_listen,
            log_filter: self.log_filter.clone(),
            log_format: self.log_format,
            dumpable: self.dumpable,
            root: root.map(Path::to_owned),
        }
    }

    /// Returns the listener that the flags describe.
    fn listener(&self, root: Option<&Path>) -> ListenerConfig {
        let file = |path: &Option<PathBuf>| path.as_deref().map(|path| below(root, path));
        let client_auth = match file(&self.client_ca) {
            Some(ca) => ClientAuth::Required(ClientTrust::new(ca)),
            None => ClientAuth::None,
        };
        let complete = "clap requires it without a file";
        let pair = CertificateFiles {
            cert: file(&self.cert).expect(complete),
            key: file(&self.key).expect(complete),
        };
        let listen = self.listen.expect(complete);
        let backend = self.backend.clone().expect(complete);
        ListenerConfig::new("default", listen, backend, pair, client_auth)
    }
}
