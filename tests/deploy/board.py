"""The Grafana dashboard of a job: all devices together. device_board.py has the one of a single device.

This file is the source: the queries, units and descriptions of all panels. Grafana's JSON is too repetitive to be
read or changed by hand: generate.py writes it.
"""

import json

from . import panels
from .addresses import RUNBOOKS
from .panels import (
    ALARM_FROM_1, COLOURED_CELL, DASHBOARDS, GOOD, NEUTRAL, PROMETHEUS, bars, color, explained, heatmap, link,
    logs, override, regex_override, series, stat, table, thresholds, timeline, values,
)

WRITTEN = DASHBOARDS / "tlsidecar.json"

# Label matchers of the variables. A Linux host has neither namespace nor pod: for "All" these, instance and listener
# become ".*", which also matches a missing label. For "All", job is the list of tlsidecar's jobs: otherwise `up` and
# process_... would include every program.
INSTANCE = 'job=~"$job", namespace=~"$namespace", pod=~"$pod", instance=~"$instance"'
LISTENER = INSTANCE + ', listener=~"$listener"'
# Name of an instance in a legend: in Kubernetes the Pod's name and its address, on a host the address.
WHO = "{{pod}} {{instance}}"
# Connections from which on memory per connection says more about connections than about the program.
MANY = 100
# Lines of the access log, in both formats of log.format. The first variable has the labels of the collector.
LINES = '{${stream:raw}, namespace=~"$namespace", pod=~"$pod"}'

# Short meaning of each failure reason, with the first thing to check. docs/reasons.md has the details; a check ensures
# that every reason is here or below.
FAILED = {
    "proxy_header_invalid": "Load balancer of accept_from sent no valid PROXY header in time",
    "proxy_header_unexpected": "PROXY header from an address that is not in accept_from",
    "client_tls_timeout": "Device stopped during the handshake: network, power, or this machine is busy",
    "client_tls_memory": "Handshakes in progress reached their memory limit, and this one held most",
    "client_evicted": "Limit of connections reached: evicted before its handshake was complete",
    "client_abandoned": "Device left while it waited for its turn: more devices connect than this machine serves",
    "client_tls_eof": "Device closed during the handshake: often it rejects the certificate without an alert",
    "client_tls_not_tls": "Not TLS: plain HTTP or MQTT on this port, or a scanner; looks_like in the log",
    "client_tls_alert": "Device rejected the server: see the alerts of devices, below",
    "client_tls_incompatible": "No version, suite, group or signature in common: see the refused parameters",
    "client_name_unknown": "Device sent a server name that no route and no certificate has",
    "client_tls_error": "Invalid TLS: one device: firmware; many: something on the path changes bytes",
    "client_cert_missing": "Device sent no certificate, but one is required",
    "client_cert_expired": "Device's certificate has expired: renew it",
    "client_cert_not_yet_valid": "Device's certificate is not valid yet: clock of the CA or of this machine",
    "client_cert_unknown_ca": "Device's certificate is from a CA that is not in client_ca",
    "client_cert_revoked": "Device's certificate is revoked",
    "client_cert_chain_too_large": "Device sent more certificates than the listener accepts",
    "client_cert_bad_signature": "Device's certificate is damaged or forged, or its key is another one",
    "client_cert_wrong_usage": "Device's certificate is not for clients, or is that of a CA",
    "client_cert_weak_key": "Device's RSA key is too short: issue a certificate for a new key",
    "client_cert_revocation_unknown": "No CRL covers the device's certificate: add a CRL of each CA",
    "client_cert_rejected": "Device's certificate was rejected for another cause: see the log",
    "client_not_allowed": "Device's certificate is valid, and no allow rule admits it",
    "no_route": "No route for the server name or protocol of the device: what in the log",
    "backend_refused": "Legacy server refused the connection: is it up?",
    "backend_timeout": "Legacy server did not answer in time",
    "backend_unreachable": "Legacy server unreachable: address, DNS or Unix socket",
    "backend_error": "Connection to the legacy server failed: see the log",
    "proxy_fd_limit": "No file descriptor left for the legacy server: raise the limit",
    "proxy_thread_limit": "No thread left to resolve the legacy server's name: raise the limit",
    "proxy_buffers_full": "Peers that do not read hold all memory for relayed bytes: is the legacy server stuck?",
    "proxy_overloaded": "Device waited for its turn until the deadline: more cores, or ECDSA instead of RSA",
    "proxy_memory_limit": "The kernel has no memory for another socket",
    "internal": "A fault in tlsidecar: please report it",
}
# Reasons of ended sessions, by the side that ended them.
ENDED = {
    "in order": ["ok"],
    "the device": ["client_reset", "client_lost", "client_truncated", "client_record_truncated"],
    "the backend": ["backend_reset", "backend_lost"],
    "tlsidecar": ["idle_timeout", "half_close_timeout", "max_age", "keys_exhausted", "drain", "drain_deadline", "killed",
                  "over_limit", "over_source_limit", "revoked", "expired"],
}
# Health checks: neither failures nor sessions.
IGNORED = ["client_probe"]

# Meaning of each alert of a device.
ALERTS = {
    "unknown_ca": "It does not know the CA of the server certificate",
    "bad_certificate": "It considers the certificate invalid: often a wrong name or chain",
    "certificate_expired": "It considers the certificate expired, or its clock is wrong",
    "certificate_unknown": "It rejects the certificate without a specific cause",
    "certificate_revoked": "It considers the certificate revoked",
    "unsupported_certificate": "It does not support this key type: an RSA certificate in addition may help",
    "handshake_failure": "It cannot continue with the selected parameters",
    "protocol_version": "It requires another TLS version",
    "insufficient_security": "It requires stronger ciphers",
    "illegal_parameter": "It considers a value illegal",
    "decode_error": "It cannot decode a message: its buffers may be too small",
    "decrypt_error": "It cannot verify a signature or a Finished message",
    "bad_record_mac": "Bytes were changed on the path",
    "unexpected_message": "It did not expect the message",
    "access_denied": "It denies access",
    "unrecognized_name": "It does not know the server name",
    "no_application_protocol": "It requires another ALPN protocol",
    "internal_error": "It has an internal error: often out of memory",
    "user_canceled": "It aborted the handshake",
    "other": "Another alert: see the log",
}


def dashboard():
    """Returns the dashboard, in reading order."""
    return panels.dashboard(
        "tlsidecar", "tlsidecar", "Failures of devices, and the state of TLS in front of a legacy server.",
        since="3h", refresh="30s",
        links=[link("Runbooks", "${runbooks}", "Remedies for each alert"),
               link("One device", "/d/tlsidecar-device", "The log of a single device") | {"includeVars": True}],
        annotations=annotations(),
        variables=variables(),
        rows=[
            ("Why can't my devices connect?", why()),
            ("How many, how many fail, how long", rate_errors_duration()),
            ("TLS health", tls_health()),
            ("Certificates", certificates()),
            ("Backends and sessions", backends()),
            ("Resources", resources()),
            ("Lifecycle", lifecycle()),
            ("Log", log()),
        ],
    )


# ---- The rows ------------------------------------------------------------------------------------


def why():
    failed = f'tlsidecar_connections_closed_total{{{LISTENER}, reason=~"{either(FAILED)}"}}'
    return [
        stat(
            "Instances up", 3,
            "Instances that answer Prometheus, and instances that do not.",
            "short",
            [(f"sum(up{{{INSTANCE}}})", "up"), (f"count(up{{{INSTANCE}}}) - sum(up{{{INSTANCE}}})", "down")],
            steps=GOOD,
            overrides=[override("down", thresholds(ALARM_FROM_1))],
            runbook="TlsidecarDown",
        ),
        stat(
            "Devices connected", 3,
            "Open connections, including those in their handshake.",
            "short",
            [(f"sum(tlsidecar_connections_active{{{LISTENER}}})", "connected")],
            steps=NEUTRAL, graph=True, runbook="TlsidecarMassDisconnect",
        ),
        stat(
            "Handshakes that succeed", 3,
            "Share of completed handshakes in the time range, without health checks.",
            "percentunit",
            [(
                f"sum(increase(tlsidecar_handshakes_total{{{LISTENER}}}[$__range])) / "
                f"(sum(increase(tlsidecar_handshakes_total{{{LISTENER}}}[$__range])) + sum(increase("
                f'tlsidecar_connections_closed_total{{{LISTENER}, reason=~"client_tls_.+|client_cert_.+"}}[$__range])))',
                "succeed",
            )],
            steps=[("red", None), ("orange", 0.5), ("yellow", 0.9), ("green", 0.98)],
            runbook="TlsidecarHandshakeErrorsHigh", decimals=1, instant=True,
        ),
        stat(
            "Next certificate to expire", 3,
            "Days until the first server certificate expires.",
            "suffix: days",
            [(f"(min(tlsidecar_certificate_not_after_timestamp_seconds{{{LISTENER}}}) - time()) / 86400", "days")],
            steps=[("red", None), ("orange", 7), ("green", 21)],
            runbook="TlsidecarCertificateRenewalOverdue", decimals=0,
        ),
        stat(
            "Last reload", 3,
            "Result of the last reload of certificates and configuration, over all instances.",
            "none",
            [(f"max(tlsidecar_reload_failing{{{INSTANCE}}})", "last reload")],
            steps=ALARM_FROM_1, mappings=[values({"0": "good", "1": "FAILED"})],
            runbook="TlsidecarCertificateReloadFailing",
        ),
        stat(
            "Backends down", 3,
            "Legacy servers that did not accept the last connection. Each sidecar counts its own; a server "
            "without an attempt is not counted.",
            "short",
            [(f"sum(1 - tlsidecar_backend_up{{{LISTENER}}})", "down")],
            steps=ALARM_FROM_1, runbook="TlsidecarBackendDown",
        ),
        stat(
            "Listeners at their limit", 3,
            "Listeners with the maximum number of connections. More devices have to wait.",
            "short",
            [(f"sum(tlsidecar_connections_at_limit{{{LISTENER}}})", "at the limit")],
            steps=ALARM_FROM_1, runbook="TlsidecarConnectionsAtLimit",
        ),
        stat(
            "Draining", 3,
            "Instances that accept no new devices, because they are being stopped.",
            "short",
            [(f'sum(tlsidecar_phase{{{INSTANCE}, phase=~"draining|closing|drained"}})', "draining")],
            steps=[("green", None), ("yellow", 1)], runbook="TlsidecarDrainStuck",
        ),
        explained(
            "Failed connections by reason", 14, 9,
            "Connections in the time range that ended before any data was relayed, by reason, with the "
            "first thing to check. Empty: no connection failed.",
            failed, "reason", FAILED,
            columns=("Reason", "Meaning", "Connections"), widths=(380, 110),
            runbook="TlsidecarHandshakeErrorsHigh",
        ),
        series(
            "Failures a minute", 10, 9,
            "The same over time: connections a minute that ended before any data was relayed.",
            "cpm",
            [(f"60 * sum by (reason) (rate({failed}[$__rate_interval])) > 0", "{{reason}}")],
            stack=True, bars=True, runbook="TlsidecarHandshakeErrorsHigh",
        ),
        by_listener(),
        instances(),
        explained(
            "Alerts of devices that reject the server", 8, 7,
            "Fatal alerts that devices sent in handshakes, in the time range. After a change of the "
            "certificate, they are the first sign that devices reject it.",
            f"tlsidecar_client_alerts_total{{{LISTENER}}}", "alert", ALERTS,
            columns=("Alert", "Meaning", "Times"), widths=(220, 70),
            runbook="TlsidecarDevicesRejectCertificate",
        ),
        bars(
            "Incompatible handshakes", 8, 7,
            "Handshakes in the time range without a common parameter: the missing parameter, and the best "
            "kind of suite that these devices offered; then connections without a route, and those that are not TLS.",
            "short",
            [
                (f"sum by (what) (round(increase(tlsidecar_handshake_incompatible_total{{{LISTENER}}}[$__range]))) > 0",
                 "no common {{what}}"),
                (f"sum by (best) (round(increase(tlsidecar_refused_suites_total{{{LISTENER}}}[$__range]))) > 0",
                 "best offer: {{best}}"),
                (f"sum by (what) (round(increase(tlsidecar_no_route_total{{{LISTENER}}}[$__range]))) > 0",
                 "no route: {{what}}"),
                (f"sum by (looks_like) (round(increase(tlsidecar_not_tls_total{{{LISTENER}}}[$__range]))) > 0",
                 "not TLS: {{looks_like}}"),
            ],
            runbook="TlsidecarHandshakeErrorsHigh",
        ),
        table(
            "Alerts", 8, 7,
            "Firing and pending alerts of Prometheus. A click opens the runbook.",
            "none",
            ['sum by (alertname, severity, alertstate, listener) '
             '(ALERTS{alertname=~"Tlsidecar.+", job=~"$job", namespace=~"$namespace"})'],
            columns={"alertname": "Alert", "severity": "Severity", "alertstate": "State", "listener": "Listener"},
            hidden=["Value"],
            overrides=[override("alertname", ("links", [
                {"title": "What to do", "url": "${runbooks}/${__value.raw}.md", "targetBlank": True},
            ]), ("custom.minWidth", 230))],
            runbook="",
        ),
    ]


def by_listener():
    failed = f'tlsidecar_connections_closed_total{{{LISTENER}, reason=~"{either(FAILED)}"}}'
    return table(
        "Listeners", 14, 6,
        "Each listener: its open connections and their limit, new connections a minute, failures in the time range, "
        "bytes a second, backends that are down, and days until its first certificate expires.",
        "none",
        [
            f"sum by (listener) (tlsidecar_connections_active{{{LISTENER}}})",
            f"sum by (listener) (tlsidecar_connections_limit{{{LISTENER}}})",
            f"60 * sum by (listener) (rate(tlsidecar_connections_accepted_total{{{LISTENER}}}[$__rate_interval]))",
            f"sum by (listener) (round(increase({failed}[$__range])))",
            *(f'sum by (listener) (rate(tlsidecar_bytes_total{{{LISTENER}, direction="{way}"}}[$__rate_interval]))'
              for way in ("to_backend", "to_client")),
            f"sum by (listener) (1 - tlsidecar_backend_up{{{LISTENER}}})",
            f"(min by (listener) (tlsidecar_certificate_not_after_timestamp_seconds{{{LISTENER}}}) - time()) / 86400",
        ],
        columns={
            "listener": "Listener", "Value #A": "Connected", "Value #B": "Limit", "Value #C": "New a minute",
            "Value #D": "Failures", "Value #E": "To backend", "Value #F": "To devices", "Value #G": "Backends down",
            "Value #H": "Days left",
        },
        overrides=[
            *(override(f"Value #{letter}", ("decimals", 0)) for letter in "ABCD"),
            *(override(f"Value #{letter}", ("unit", "Bps"), ("decimals", 0)) for letter in "EF"),
            override("Value #G", ("decimals", 0), thresholds(ALARM_FROM_1), COLOURED_CELL),
            override("Value #H", ("decimals", 0), thresholds([("red", None), ("orange", 7), ("green", 21)]), COLOURED_CELL),
        ],
        sort=("Failures", True), merge=True, runbook="TlsidecarHandshakeErrorsHigh",
    )


def instances():
    return table(
        "Instances", 10, 6,
        "Version, connections and time since the start of each instance. A click opens its status page, where Prometheus "
        "scrapes the admin port; in Kubernetes use kubectl port-forward.",
        "none",
        [
            f"sum by (pod, instance, version) (tlsidecar_build_info{{{INSTANCE}}})",
            f"sum by (pod, instance) (tlsidecar_connections_active{{{INSTANCE}}})",
            f"max by (pod, instance) (time() - process_start_time_seconds{{{INSTANCE}}})",
        ],
        columns={"pod": "Pod", "instance": "Instance", "version": "Version", "Value #B": "Connected", "Value #C": "Uptime"},
        hidden=["Value #A"],
        overrides=[
            override("instance", ("links", [{"title": "Status page", "url": "http://${__value.raw}/", "targetBlank": True}])),
            override("Value #B", ("decimals", 0)),
            override("Value #C", ("unit", "s"), ("decimals", 0)),
        ],
        sort=("Instance", False), merge=True, runbook="TlsidecarRestarting",
    )


def rate_errors_duration():
    duration = f"tlsidecar_handshake_duration_seconds_bucket{{{LISTENER}}}"
    return [
        series(
            "Connections a minute", 8, 8,
            "Accepted connections, completed handshakes, and failed handshakes. Accepted without the others: "
            "health checks, or handshakes that have not ended.",
            "cpm",
            [
                (f"60 * sum(rate(tlsidecar_connections_accepted_total{{{LISTENER}}}[$__rate_interval]))", "accepted"),
                (f"60 * sum(rate(tlsidecar_handshakes_total{{{LISTENER}}}[$__rate_interval]))", "handshakes completed"),
                (f'60 * sum(rate(tlsidecar_connections_closed_total{{{LISTENER}, '
                 f'reason=~"client_tls_.+|client_cert_.+"}}[$__rate_interval]))', "handshakes failed"),
            ],
            overrides=[override("handshakes failed", color("red"))],
            runbook="TlsidecarReconnectStorm",
        ),
        series(
            "Connections and their limit", 8, 8,
            "Open connections of each listener, and its limit.",
            "short",
            [
                (f"sum by (listener) (tlsidecar_connections_active{{{LISTENER}}})", "{{listener}}"),
                (f"sum by (listener) (tlsidecar_connections_limit{{{LISTENER}}})", "{{listener}}: limit"),
            ],
            overrides=[regex_override("/: limit$/", ("custom.lineStyle", {"fill": "dash", "dash": [8, 8]}),
                                      ("custom.fillOpacity", 0))],
            log=True, runbook="TlsidecarConnectionsNearLimit",
        ),
        series(
            "Bytes a second", 8, 8,
            "Relayed plaintext of each listener: from devices to the backend, and back.",
            "Bps",
            [(f"sum by (listener, direction) (rate(tlsidecar_bytes_total{{{LISTENER}}}[$__rate_interval]))",
              "{{listener}} {{direction}}")],
        ),
        series(
            "Handshake duration", 8, 8,
            "From accept to the end of completed handshakes, including the device's part: 50, 90 and 99 % "
            "of the handshakes were faster.",
            "s",
            [(f"histogram_quantile({q}, sum by (le) (rate({duration}[$__rate_interval])))", name)
             for q, name in (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99"))],
            runbook="TlsidecarHandshakeSlow",
        ),
        heatmap(
            "Handshake durations", 8, 8,
            "The same as a distribution. Two bands mean two kinds of devices, or full and resumed handshakes.",
            [(f"sum by (le) (increase({duration}[$__rate_interval]))", "{{le}}")],
            runbook="TlsidecarHandshakeSlow",
        ),
        series(
            "Where handshakes spend their time", 8, 8,
            "Average parts of a handshake: waiting for a worker thread (wait), waiting for the device "
            "(client), computing TLS (crypto). High wait or crypto: this machine is busy. "
            "High client: the devices or their network are slow.",
            "s",
            [(f"sum by (part) (rate(tlsidecar_handshake_part_seconds_sum{{{LISTENER}}}[$__rate_interval])) / "
              f"sum by (part) (rate(tlsidecar_handshake_part_seconds_count{{{LISTENER}}}[$__rate_interval]))",
              "{{part}}")],
            stack=True, runbook="TlsidecarHandshakeSlow",
        ),
        heatmap(
            "Connection durations", 12, 8,
            "Duration of ended connections. Many short ones: devices reconnect often, and each time need "
            "a handshake.",
            [(f"sum by (le) (increase(tlsidecar_connection_duration_seconds_bucket{{{LISTENER}}}[$__rate_interval]))",
              "{{le}}")],
            runbook="TlsidecarReconnectStorm",
        ),
        series(
            "Connections that could not be accepted", 12, 8,
            "A minute, by cause: no file descriptors, no memory, the client had already closed.",
            "cpm",
            [(f"60 * sum by (kind) (rate(tlsidecar_accept_errors_total{{{LISTENER}}}[$__rate_interval]))", "{{kind}}")],
            runbook="TlsidecarAcceptErrors",
        ),
    ]


def tls_health():
    def by(title, description, metric, label, legend=None, selector=LISTENER, runbook="", width=8):
        return series(
            title, width, 8, description, "cpm",
            [(f"60 * sum by ({label}) (rate({metric}{{{selector}}}[$__rate_interval]))",
              legend or "{{" + label + "}}")],
            stack=True, runbook=runbook,
        )

    return [
        by("TLS failures", "Failed handshakes a minute, by reason.",
           "tlsidecar_connections_closed_total", "reason",
           selector=LISTENER + ', reason=~"client_tls_.+|client_cert_.+"', runbook="TlsidecarHandshakeErrorsHigh"),
        by("Alerts that devices sent", "Fatal alerts a minute in handshakes.",
           "tlsidecar_client_alerts_total", "alert", runbook="TlsidecarDevicesRejectCertificate"),
        by("Likely causes of rejected certificates", "The causes that fit the alerts, ClientHellos and certificates, a minute. "
           "unclear: several causes have the same alert. The first rejection for a cause since the start of a process is not shown.",
           "tlsidecar_certificate_rejections_total", "likely_cause", runbook="TlsidecarDevicesRejectCertificate"),
        by("Handshakes that devices did not finish", "How they stopped, and how far they had come, a minute.",
           "tlsidecar_handshake_unfinished_total", "how, stage", "{{how}}: {{stage}}",
           runbook="TlsidecarHandshakeErrorsHigh"),
        by("Full and resumed", "Handshakes a minute. full_retry: the device's first key share was not "
           "supported, which costs a round trip. Few resumed ones: devices do not keep their tickets.",
           "tlsidecar_handshakes_total", "kind"),
        by("Versions and suites in use", "Handshakes a minute.",
           "tlsidecar_handshakes_total", "version, cipher", "{{version}} {{cipher}}"),
        by("Highest version offered", "ClientHellos a minute, also of failed handshakes. "
           "1.1 and older cannot connect.", "tlsidecar_client_hellos_total", "version"),
        by("Key exchange", "Groups of completed handshakes, a minute. none: resumed without a key exchange.",
           "tlsidecar_handshake_groups_total", "group"),
        by("Nothing in common", "Handshakes a minute without a common version, suite, group, signature "
           "scheme or protocol.", "tlsidecar_handshake_incompatible_total", "what",
           runbook="TlsidecarHandshakeErrorsHigh"),
        by("Best suite of refused devices", "Best suite that devices without a common suite offered.",
           "tlsidecar_refused_suites_total", "best"),
        by("Server certificates in use", "Key types of the server certificates in full handshakes, a minute.",
           "tlsidecar_handshake_certificates_total", "key"),
        by("Devices' certificates", "Completed handshakes a minute with a verified certificate, and without one.",
           "tlsidecar_handshake_clients_total", "certificate"),
        by("Resumption", "Sessions that devices offered to resume, a minute. The others than resumed led to a full handshake.",
           "tlsidecar_resumptions_total", "outcome", width=12),
        series(
            "Handshakes in progress", 12, 8,
            "A lasting increase: devices that stop during the handshake, or a machine without enough CPU. Waiting: ClientHellos "
            "that wait for their turn.",
            "short",
            [(f"sum by (listener) (tlsidecar_handshakes_in_progress{{{LISTENER}}})", "{{listener}}"),
             (f"sum by (listener) (tlsidecar_handshakes_waiting{{{LISTENER}}})", "{{listener}}: waiting")],
            runbook="TlsidecarHandshakeSlow",
        ),
    ]


def certificates():
    info = f"on (job, namespace, instance, listener, cert) group_left (serial, sha256, issuer, key) " \
           f"tlsidecar_certificate_info{{{LISTENER}}}"
    not_after = f"tlsidecar_certificate_not_after_timestamp_seconds{{{LISTENER}}}"
    not_before = f"tlsidecar_certificate_not_before_timestamp_seconds{{{LISTENER}}}"
    each = "by (listener, cert, serial, sha256, issuer, key)"
    return [
        table(
            "Active certificates", 24, 6,
            "Served certificates, one line per fingerprint. Two lines for one file: instances serve "
            "different certificates; Instances is the number of instances for each.",
            "none",
            [
                f"min {each} (({not_after} - time()) / 86400 * {info})",
                f"min {each} (({not_after} - time()) / ({not_after} - {not_before}) * {info})",
                f"count {each} (tlsidecar_certificate_info{{{LISTENER}}})",
            ],
            columns={
                "listener": "Listener", "cert": "File", "Value #A": "Days left", "Value #B": "Lifetime left",
                "Value #C": "Instances", "key": "Key", "issuer": "Issuer", "serial": "Serial", "sha256": "SHA-256",
            },
            overrides=[
                override("Value #A", ("decimals", 1), ("custom.width", 100),
                         thresholds([("red", None), ("orange", 7), ("green", 21)]), COLOURED_CELL),
                override("Value #B", ("unit", "percentunit"), ("decimals", 0), ("custom.width", 100)),
                override("Value #C", ("decimals", 0), ("custom.width", 90)),
                override("key", ("custom.width", 80)),
            ],
            sort=("Days left", False), merge=True,
            runbook="TlsidecarCertificateRenewalOverdue",
        ),
        table(
            "CAs of devices' certificates", 12, 5,
            "CAs in client_ca; of each listener the eight that expire first.",
            "none",
            [f"(min by (listener, ca) (tlsidecar_client_ca_not_after_timestamp_seconds{{{LISTENER}}}) - time()) / 86400"],
            columns={"listener": "Listener", "ca": "CA", "Value": "Days left"},
            overrides=[override("Value", ("decimals", 0), ("custom.width", 110),
                                thresholds([("red", None), ("orange", 30), ("green", 365)]), COLOURED_CELL)],
            sort=("Days left", False), runbook="TlsidecarClientCaExpiring",
        ),
        table(
            "Revocation lists", 12, 5,
            "Days until nextUpdate of a list. A list past it stays active.",
            "none",
            [f"(min by (listener, crl) (tlsidecar_crl_next_update_timestamp_seconds{{{LISTENER}}}) - time()) / 86400"],
            columns={"listener": "Listener", "crl": "File", "Value": "Days left"},
            overrides=[override("Value", ("decimals", 1), ("custom.width", 110),
                                thresholds([("red", None), ("orange", 1), ("green", 3)]), COLOURED_CELL)],
            sort=("Days left", False), runbook="TlsidecarCrlStale",
        ),
        series(
            "Lifetime left", 12, 8,
            "Remaining share of each certificate's lifetime, lowest instance. Renewals form a saw-tooth "
            "line; a line that falls below a third has missed its renewal.",
            "percentunit",
            [(f"min by (listener, cert) (({not_after} - time()) / ({not_after} - {not_before}))", "{{listener}} {{cert}}")],
            below_zero=True, runbook="TlsidecarCertificateRenewalOverdue",
        ),
        series(
            "Reloads", 12, 8,
            "Reloads by object and result.",
            "short",
            [(f'sum by (object, outcome) (increase(tlsidecar_reload_objects_total{{{INSTANCE}, outcome!="unchanged"}}'
              f"[$__rate_interval]))", "{{object}} {{outcome}}")],
            bars=True, stack=True,
            overrides=[regex_override("/failed/", color("red"))],
            runbook="TlsidecarCertificateReloadFailing",
        ),
        series(
            "Rollouts of certificates", 12, 8,
            "Full handshakes a minute during a rollout, by the certificate that the device got and the outcome. No line: no "
            "listener has a rollout.",
            "cpm",
            [(f"60 * sum by (group, outcome) (rate(tlsidecar_rollout_handshakes_total{{{LISTENER}}}[$__rate_interval]))",
              "{{group}} {{outcome}}")],
            stack=True, runbook="TlsidecarCertificateRolledBack",
        ),
        series(
            "When connected devices' certificates expire", 12, 8,
            "Open sessions by the expiry of the device's certificate. After the expiry the device cannot "
            "reconnect.",
            "short",
            [(f"sum by (expires) (tlsidecar_sessions_by_certificate_expiry{{{LISTENER}}})", "{{expires}}")],
            stack=True, runbook="TlsidecarDeviceCertificatesExpiring",
            overrides=[override("expired", color("red")), override("within_1d", color("orange")),
                       override("within_7d", color("yellow"))],
        ),
    ]


def backends():
    connect = f"tlsidecar_backend_connect_duration_seconds_bucket{{{LISTENER}}}"
    first = f"tlsidecar_backend_first_byte_seconds_bucket{{{LISTENER}}}"
    ended = [
        (f'60 * sum(rate(tlsidecar_connections_closed_total{{{LISTENER}, reason=~"{either(reasons)}"}}'
         f"[$__rate_interval]))", who)
        for who, reasons in ENDED.items()
    ]
    return [
        timeline(
            "Backends", 8, 8,
            "Result of the last connection to the legacy server.",
            [(f"min by (listener, backend, pod, instance) (tlsidecar_backend_up{{{LISTENER}}})",
              "{{listener}} {{backend}} {{pod}}")],
            {"0": ("down", "red"), "1": ("up", "green")}, runbook="TlsidecarBackendDown",
        ),
        series(
            "Connects to backends", 8, 8,
            "A minute, by result.",
            "cpm",
            [(f"60 * sum by (backend, result) (rate(tlsidecar_backend_connects_total{{{LISTENER}}}[$__rate_interval]))",
              "{{backend}} {{result}}")],
            stack=True, runbook="TlsidecarBackendConnectErrors",
        ),
        series(
            "Time to connect", 8, 8,
            "From the lookup of the backend's name to an open connection.",
            "s",
            [(f"histogram_quantile({q}, sum by (le) (rate({connect}[$__rate_interval])))", name)
             for q, name in (("0.5", "p50"), ("0.99", "p99"))],
            runbook="TlsidecarBackendConnectErrors",
        ),
        series(
            "Time to the first answer", 8, 8,
            "From the first byte of a device, or from the connect, to the first byte of the legacy server.",
            "s",
            [(f"histogram_quantile({q}, sum by (le) (rate({first}[$__rate_interval])))", name)
             for q, name in (("0.5", "p50"), ("0.99", "p99"))],
            runbook="TlsidecarBackendSilent",
        ),
        series(
            "Sessions without an answer", 8, 8,
            "Sessions whose device sent last, 30 seconds ago or longer. Devices that only report are always counted.",
            "short",
            [(f"sum by (listener) (tlsidecar_backend_silent_sessions{{{LISTENER}}})", "{{listener}}")],
            runbook="TlsidecarBackendSilent",
        ),
        series(
            "Ended sessions by side", 8, 8,
            "Ended sessions a minute: in order, by a reset or the loss of one side, or by a limit of tlsidecar.",
            "cpm", ended, stack=True, runbook="TlsidecarMassDisconnect",
        ),
        series(
            "Sessions by age", 8, 8,
            "Age of the open sessions.",
            "short",
            [(f"sum by (age) (tlsidecar_sessions_by_age{{{LISTENER}}})", "{{age}}")],
            stack=True, runbook="TlsidecarReconnectStorm",
        ),
        series(
            "Sessions by silence", 8, 8,
            "Time since the last byte in either direction. A device that should report each minute and is "
            "in a later band is stuck.",
            "short",
            [(f"sum by (silence) (tlsidecar_sessions_by_silence{{{LISTENER}}})", "{{silence}}")],
            stack=True,
        ),
    ]


def resources():
    return [
        series(
            "CPU", 8, 8,
            "Cores that the worker threads of each instance keep busy. process_cpu_seconds_total counts whole seconds, "
            "which is too coarse for a rate.",
            "short",
            [(f"rate(tlsidecar_runtime_busy_seconds_total{{{INSTANCE}}}[$__rate_interval])", WHO)],
            runbook="TlsidecarRuntimeBusy",
        ),
        series(
            "Worker threads busy", 8, 8,
            "Busy share of the worker threads. Near 100 %, handshakes wait.",
            "percentunit",
            [(f"rate(tlsidecar_runtime_busy_seconds_total{{{INSTANCE}}}[$__rate_interval]) / "
              f"tlsidecar_runtime_workers{{{INSTANCE}}}", WHO)],
            runbook="TlsidecarRuntimeBusy",
        ),
        series(
            "File descriptors", 8, 8, "Open descriptors as a share of the limit. A connection needs two.", "percentunit",
            [(f"process_open_fds{{{INSTANCE}}} / process_max_fds{{{INSTANCE}}}", WHO)],
            runbook="TlsidecarFdsHigh",
        ),
        series(
            "Memory", 8, 8, "Resident memory of each instance.", "bytes",
            [(f"process_resident_memory_bytes{{{INSTANCE}}}", WHO)],
        ),
        series(
            "Memory per connection", 8, 8,
            f"Resident memory divided by open connections, of instances with at least {MANY}: with few, most of it is the "
            "program.",
            "bytes",
            [(f"process_resident_memory_bytes{{{INSTANCE}}} / on (job, namespace, instance) "
              f"(sum by (job, namespace, instance) (tlsidecar_connections_active{{{INSTANCE}}}) >= $many)", "{{instance}}")],
        ),
        series(
            "Buffered for slow peers", 8, 8,
            "Bytes that connections hold because a device or a backend does not read them, and incomplete records.",
            "bytes",
            [(f"sum by (listener) (tlsidecar_buffered_bytes{{{LISTENER}}})", "{{listener}}")],
        ),
        series(
            "Log lines lost", 12, 8,
            "A minute, because the reader of standard error is too slow.", "cpm",
            [(f"60 * rate(tlsidecar_log_lines_dropped_total{{{INSTANCE}}}[$__rate_interval])", WHO)],
            runbook="TlsidecarLogLinesDropped",
        ),
        series(
            "Uptime", 12, 8, "Time since the start of each instance. A fine saw-tooth line is a crash loop.", "s",
            [(f"time() - process_start_time_seconds{{{INSTANCE}}}", WHO)],
            runbook="TlsidecarRestarting",
        ),
    ]


def lifecycle():
    phases = ["starting", "running", "draining", "closing", "drained"]
    colours = ["blue", "green", "yellow", "orange", "purple"]
    return [
        timeline(
            "Phase", 12, 8,
            "Phase of each instance. Draining: still accepting, not ready. Closing: the listeners are closed, "
            "and connections may end by themselves until they are forced.",
            [(" + ".join(f'{n} * sum by (pod, instance) (tlsidecar_phase{{{INSTANCE}, phase="{phase}"}})'
                         for n, phase in enumerate(phases)), WHO)],
            {str(n): (phase, colours[n]) for n, phase in enumerate(phases)},
            runbook="TlsidecarDrainStuck",
        ),
        series(
            "Time left to drain", 6, 8,
            "Time until the remaining connections are forced. No line: no drain. At zero with open connections: the drain "
            "is stuck.", "s",
            [(f"clamp_min((tlsidecar_drain_started_timestamp_seconds{{{INSTANCE}}} > 0) + "
              f"tlsidecar_drain_timeout_seconds{{{INSTANCE}}} - time(), 0)", WHO)],
            runbook="TlsidecarDrainStuck",
        ),
        series(
            "Sessions that a drain waits for", 6, 8,
            "Sessions that are closed as soon as they are idle: their turn has come, and a transfer is in progress.",
            "short",
            [(f"sum by (pod, instance) (tlsidecar_drain_waiting_sessions{{{INSTANCE}}})", WHO)],
            runbook="TlsidecarDrainStuck",
        ),
        series(
            "Devices on each instance", 12, 8,
            "Movement of devices between instances in a rollout.", "short",
            [(f"sum by (pod, instance) (tlsidecar_connections_active{{{LISTENER}}})", WHO)],
            stack=True, runbook="TlsidecarMassDisconnect",
        ),
        series(
            "New connections on each instance", 12, 8,
            "A minute. Reconnects after a restart or a drain show as a peak.", "cpm",
            [(f"60 * sum by (pod, instance) (rate(tlsidecar_connections_accepted_total{{{LISTENER}}}[$__rate_interval]))",
              WHO)],
            runbook="TlsidecarReconnectStorm",
        ),
    ]


def log():
    return [
        logs(
            "Failed connections", 24, 10,
            "Lines of the access log of connections that did not end in order, from Loki.",
            LINES + ' |~ `reason"?[=:]"` !~ `reason"?[=:]"(ok|client_probe)"`', runbook="TlsidecarHandshakeErrorsHigh",
        ),
        logs(
            "Warnings and errors", 24, 8,
            "Lines of the levels WARN and ERROR: failed reloads, backends, and faults.",
            LINES + ' |~ `(^| |")(WARN|ERROR)( |")`',
        ),
    ]


# ---- Variables, annotations ----------------------------------------------------------------------


def variables():
    def query(name, label, text, all_value, metric="tlsidecar_build_info", within=""):
        expression = f"label_values({metric}{{{within}}}, {label})" if within else f"label_values({metric}, {label})"
        variable = {
            "name": name, "label": text, "type": "query", "datasource": PROMETHEUS,
            "query": {"query": expression, "refId": name},
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "hide": 0, "regex": "",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
        }
        if all_value:
            variable["allValue"] = all_value
        return variable

    job = 'job=~"$job"'
    return [
        {
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1, "regex": "",
            "current": {"selected": False, "text": "default", "value": "default"},
        },
        # No ".*": see INSTANCE.
        query("job", "job", "Job", None),
        query("namespace", "namespace", "Namespace", ".*", within=job),
        query("pod", "pod", "Pod", ".*", within=f'{job}, namespace=~"$namespace"'),
        query("instance", "instance", "Instance", ".*", within=f'{job}, namespace=~"$namespace", pod=~"$pod"'),
        query("listener", "listener", "Listener", ".*", "tlsidecar_connections_active", INSTANCE),
        *of_logs(),
        # Hidden; set in one place.
        constant("runbooks", "Runbooks", RUNBOOKS),
        constant("many", "Connections for averages", str(MANY)),
    ]


def constant(name, text, value):
    return {
        "name": name, "label": text, "type": "constant", "query": value, "hide": 2, "skipUrlSync": True,
        "current": {"selected": True, "text": value, "value": value},
    }


def of_logs():
    """Returns the variables of the panels that ask Loki. Nothing else needs Loki."""
    stream = 'container="tlsidecar"'
    return [
        {
            "name": "logs", "label": "Logs", "type": "datasource", "query": "loki", "hide": 0, "includeAll": False,
            "multi": False, "options": [], "refresh": 1, "regex": "",
            "current": {"selected": False, "text": "default", "value": "default"},
        },
        {
            "name": "stream", "label": "Log labels", "type": "textbox", "query": stream, "hide": 0, "skipUrlSync": False,
            "description": 'Labels of tlsidecar\'s log in Loki. On a Linux host, for example unit="tlsidecar.service".',
            "current": {"selected": True, "text": stream, "value": stream}, "options": [],
        },
    ]


def annotations():
    def events(name, colour, expression, title):
        return {
            "name": name, "enable": True, "hide": False, "iconColor": colour, "datasource": PROMETHEUS,
            "target": {"refId": "Anno", "expr": expression, "interval": "", "legendFormat": ""},
            "titleFormat": title, "textFormat": WHO, "tagKeys": "outcome",
        }

    return [
        events("Reloads", "blue", f'increase(tlsidecar_reloads_total{{{INSTANCE}, outcome="swapped"}}[$__rate_interval]) > 0',
               "Something new is active"),
        events("Failed reloads", "red",
               f'increase(tlsidecar_reloads_total{{{INSTANCE}, outcome="failed"}}[$__rate_interval]) > 0',
               "A reload failed"),
        events("Restarts", "purple", f"changes(process_start_time_seconds{{{INSTANCE}}}[$__rate_interval]) > 0",
               "Restarted"),
    ]


def either(names):
    return "|".join(names)


def text():
    """Returns the content of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
