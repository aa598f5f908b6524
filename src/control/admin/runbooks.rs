//! `GET /runbooks/{alert}`: the runbooks of the alerts, as text.
//!
//! **Promises.** They are those of docs/runbooks of this version, and need neither a network nor a wiki: an operator has
//! them where the status page is.
//!
//! **Not here.** The alerts (deploy/prometheus), the page that links to them (`page.rs`).

/// The alert and the text of each runbook.
macro_rules! runbooks {
    ($($alert:literal)+) => {
        &[$(($alert, include_str!(concat!("../../../docs/runbooks/", $alert, ".md"))),)+]
    };
}

const RUNBOOKS: &[(&str, &str)] = runbooks! {
    "TlsidecarAcceptErrors"
    "TlsidecarAllDown"
    "TlsidecarBackendAddressDown"
    "TlsidecarBackendConnectErrors"
    "TlsidecarBackendDown"
    "TlsidecarBackendSilent"
    "TlsidecarCertificateDrift"
    "TlsidecarCertificateExpired"
    "TlsidecarCertificateReloadFailing"
    "TlsidecarCertificateRenewalOverdue"
    "TlsidecarCertificateRolledBack"
    "TlsidecarClientCaExpiring"
    "TlsidecarConnectionsAtLimit"
    "TlsidecarConnectionsNearLimit"
    "TlsidecarCrlStale"
    "TlsidecarDeviceCertificatesExpiring"
    "TlsidecarDevicesLost"
    "TlsidecarDevicesRejectCertificate"
    "TlsidecarDown"
    "TlsidecarDrainStuck"
    "TlsidecarFdsHigh"
    "TlsidecarHandshakeErrorsHigh"
    "TlsidecarHandshakeSlow"
    "TlsidecarInternalError"
    "TlsidecarLogLinesDropped"
    "TlsidecarMassDisconnect"
    "TlsidecarNoRoute"
    "TlsidecarReconnectStorm"
    "TlsidecarRestarting"
    "TlsidecarRuntimeBusy"
};

/// Returns the alerts that have a runbook.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RUNBOOKS.iter().map(|(alert, _)| *alert)
}

/// Returns the runbook of an alert.
pub(super) fn find(alert: &str) -> Option<&'static str> {
    RUNBOOKS.iter().find(|(name, _)| *name == alert).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runbook_is_answered() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
        let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name());
        let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
        files.sort_unstable();
        let known: Vec<_> = names().map(|alert| format!("{alert}.md")).collect();
        assert_eq!(known, files, "the list of this file is that of docs/runbooks, in order");
        assert!(find("TlsidecarBackendDown").unwrap().starts_with("# TlsidecarBackendDown\n"));
        assert_eq!(find("../reasons"), None);
    }
}
