"""Certificate authorities, certificates and CRLs, for the time of a check. All keys are new."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


class Authority:
    """A certificate authority that writes into one directory: its own certificate is FILE.crt, its key FILE.key."""

    def __init__(self, directory, name, file="ca", days=3650):
        self.directory, self.subject = Path(directory), _name(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.crt, self.key = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        self._private = _new_key(self.key)
        usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                               "key_agreement", "encipher_only", "decipher_only"), False)
        builder = _builder(self.subject, self._private, self.subject, -10, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._private.public_key()), False)
        _sign(builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True), self._private, self.crt)

    def issue(self, file, common_name, names=(), usage="server", begins=-1.0, ends=90.0, rsa_bits=None,
              more=()):
        """Writes FILE.crt, valid from and until so many days from now, with `more` critical extensions, and FILE.key;
        returns both paths. Without a size of an RSA key, the key is on P-256."""
        crt, key = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        builder = _builder(_name(common_name), _new_key(key, rsa_bits), self.subject, begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([USAGES[usage]]), False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._private.public_key())
        builder = builder.add_extension(issuer, False)
        for extension in more:
            builder = builder.add_extension(extension, True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
        _sign(builder, self._private, crt)
        return crt, key

    def revoke(self, file, *certificates):
        """Writes a CRL that revokes the certificates of these files."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        builder = builder.last_update(_days(-1)).next_update(_days(6)).add_extension(x509.CRLNumber(1), False)
        for path in certificates:
            serial = x509.load_pem_x509_certificate(Path(path).read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_days(-1)).build()
            builder = builder.add_revoked_certificate(revoked)
        _sign(builder, self._private, self.directory / file)


def damage(crt):
    """Changes the signature of a certificate."""
    der = x509.load_pem_x509_certificate(crt.read_bytes()).public_bytes(serialization.Encoding.DER)
    crt.write_text(ssl.DER_cert_to_PEM_cert(der[:-1] + bytes([der[-1] ^ 1])))


def self_signed(crt, key, name):
    """Writes a certificate for a DNS name that is its own CA, and its key."""
    private = _new_key(Path(key))
    builder = _builder(_name(name), private, _name(name), -1, 30)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    _sign(builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False), private, Path(crt))


def _builder(subject, key, issuer, begins, ends):
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(_days(begins)).not_valid_after(_days(ends)))


def _sign(builder, key, path):
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _days(number):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=number)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _new_key(path, rsa_bits=None):
    key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return key
