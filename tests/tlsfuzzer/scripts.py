"""Which scripts run, on which site, with which options.

Promises. Every server script of the checkout is run but those in SKIPPED, each with the options that make it test what a
server without static RSA key exchange offers. A script that is new upstream runs with its defaults.

Not here. What a site is (servers.py).
"""

import dataclasses
import pathlib
import re

from servers import ANSWER

# Measure time over captured packets and need hours, or need what no server here is given.
SKIPPED = {
    "test-bleichenbacher-timing-marvin": "timing",
    "test-bleichenbacher-timing-pregenerate": "timing",
    "test-lucky13": "timing",
    "test-tls13-minerva": "timing",
    "test-tls13-psk_dhe_ke": "external PSK",
    "test-tls13-psk_ke": "external PSK",
    "test-dsa-in-certificate-verify": "DSA client certificate",
    "test-tls13-mldsa-in-certificate-verify": "ML-DSA client certificate",
}

# Client certificates by script; the others that take one get RSA.
CLIENT_KEYS = {
    "test-ecdsa-in-certificate-verify": "ecdsa",
    "test-tls13-ecdsa-in-certificate-verify": "ecdsa",
    "test-tls13-ecdsa-brainpool-in-certificate-verify": "brainpool",
    "test-eddsa-in-certificate-verify": "ed25519",
    "test-tls13-eddsa-in-certificate-verify": "ed25519",
}

# The suite of TLS 1.2 for scripts that take one by -C. The others offer suites of CBC, which tlsidecar does not have:
# for them these constants mean AES-GCM, so that the conversations test what they are about.
SUITE = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
CBC_SUITES = ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA")

# Scripts about suites themselves: nothing is replaced in what they offer.
ABOUT_SUITES = {
    "test-SSLv3-padding", "test-aesccm", "test-atypical-padding", "test-client-compatibility", "test-clienthello-md5",
    "test-dhe-key-share-random", "test-dhe-no-shared-secret-padding", "test-dhe-rsa-key-exchange",
    "test-dhe-rsa-key-exchange-signatures", "test-dhe-rsa-key-exchange-with-bad-messages", "test-encrypt-then-mac",
    "test-encrypt-then-mac-renegotiation", "test-export-ciphers-rejected", "test-ffdhe-expected-params",
    "test-ffdhe-negotiation", "test-fuzzed-padding", "test-invalid-cipher-suites", "test-resumption-with-wrong-ciphers",
    "test-sslv2-force-cipher", "test-sslv2-force-cipher-3des", "test-sslv2-force-cipher-non3des",
    "test-sslv2-force-export-cipher", "test-tls13-nociphers", "test-truncating-of-kRSA-client-key-exchange",
}

# The server has an ECDSA certificate for these, beside or instead of RSA.
ECDSA_ONLY = {"test-ecdsa-sig-flexibility", "test-tls13-ecdsa-support"}
ECDSA_SUITE = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
ECDSA_TOO = {"test-conversation", "test-point-extension", "test-cve-2004-0079", "test-record-layer-fragmentation"}

# Options beyond -d, -C and the client's certificate.
OPTIONS = {
    "test-cve-2016-7054": ["-C", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"],
    "test-record-size-limit": ["--reply-AD-size", str(len(ANSWER))],
    "test-fallback-scsv": ["--tls-1.3"],
    "test-signature-algorithms": ["--no-sha1"],
    "test-chacha20": ["--extra-exts"],
    # A thousand lengths by default, each of which Python encrypts for a second.
    "test-lengths": ["-t", "2", "-n", "100"],
    "test-tls13-lengths": ["-n", "100"],
    "test-ffdhe-negotiation": ["-t", "2"],
    "test-ffdhe-expected-params": ["-t", "2"],
    "test-tls13-ffdhe-groups": ["-t", "2"],
    "test-tls13-ffdhe-sanity": ["-t", "2"],
    "test-connection-abort": ["-t", "0.1"],
    "test-tls13-connection-abort": ["-t", "0.1"],
    "test-ssl-death-alert": ["--alerts", "4"],
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One script with its options on one site."""

    name: str
    script: str
    site: str
    options: tuple
    client_key: str = ""
    replaces_cbc: bool = False

    def arguments(self, material):
        mine = list(self.options)
        if self.client_key:
            mine += ["-k", material.key(self.client_key), "-c", material.cert(self.client_key)]
        return [str(argument) for argument in mine]


def plan(checkout):
    """Returns every run, by name."""
    runs = []
    for script in sorted((checkout / "scripts").glob("test-*.py")):
        if script.stem not in SKIPPED:
            runs += list(runs_of(script, source(checkout, script)))
    return runs


def runs_of(script, text):
    name = script.stem
    takes = lambda option: re.search(rf"opt == ['\"]{option}['\"]", text)
    options = list(OPTIONS.get(name, []))
    suite = ("-C", SUITE) if takes("-C") and "tls13" not in name and "-C" not in options and name not in ABOUT_SUITES else ()
    if takes("-d") and not (suite and "are mutually exclusive" in text):
        options.insert(0, "-d")
    run = Run(name, script.name, "rsa", tuple(options), replaces_cbc=name not in ABOUT_SUITES)
    if takes("-k"):
        run = dataclasses.replace(run, site="clients", client_key=CLIENT_KEYS.get(name, "rsa"))
    if name in ECDSA_ONLY | ECDSA_TOO:
        ecdsa = ("-C", ECDSA_SUITE) if takes("-C") else ()
        yield dataclasses.replace(run, name=f"{name}, ECDSA", site="ecdsa", options=run.options + ecdsa)
    if name not in ECDSA_ONLY:
        yield dataclasses.replace(run, options=run.options + suite)


def source(checkout, script):
    """Returns the script's text: newer versions keep it in tlsfuzzer/_apps, and a stub beside the others."""
    app = checkout / "tlsfuzzer" / "_apps" / (script.stem.replace("-", "_") + ".py")
    return pathlib.Path(app if app.exists() else script).read_text()
