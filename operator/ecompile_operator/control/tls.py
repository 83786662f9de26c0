"""Certificates of the control stream: a small CA of our own and a server certificate, kept in one Secret (RFC 5280)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ecompile_crds.names import CLIENT_CERTIFICATE, CLIENT_KEY

CA_DAYS = 3650
SERVER_DAYS = 365
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class ServerIdentity:
    """PEM texts."""

    ca_certificate: bytes
    ca_key: bytes
    certificate: bytes
    key: bytes

    def to_data(self) -> dict[str, str]:
        """`data` of a Secret."""
        parts = {
            "ca.crt": self.ca_certificate,
            "ca.key": self.ca_key,
            "tls.crt": self.certificate,
            "tls.key": self.key,
        }
        return {name: base64.b64encode(value).decode() for name, value in parts.items()}

    @staticmethod
    def from_data(data: dict[str, str]) -> ServerIdentity:
        """From `data` of a Secret.

        Raises KeyError or ValueError where a part is missing or not base64.
        """
        ca, ca_key, certificate, key = (base64.b64decode(data[n]) for n in ("ca.crt", "ca.key", "tls.crt", "tls.key"))
        return ServerIdentity(ca, ca_key, certificate, key)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def make_identity(names: tuple[str, ...], now: datetime) -> ServerIdentity:
    """A new CA and a server certificate for the given DNS names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("ecompile control CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    ca = certificate.public_bytes(serialization.Encoding.PEM)
    return renew(ServerIdentity(ca, _pem_key(key), b"", b""), names, now)


def renew(identity: ServerIdentity, names: tuple[str, ...], now: datetime) -> ServerIdentity:
    """The same CA with a new server certificate."""
    certificate, key = _issue(identity, names, ExtendedKeyUsageOID.SERVER_AUTH, now)
    return ServerIdentity(identity.ca_certificate, identity.ca_key, certificate, key)


def _issue(
    identity: ServerIdentity, names: tuple[str, ...], usage: x509.ObjectIdentifier, now: datetime
) -> tuple[bytes, bytes]:
    """A certificate for `names`, of which the first is the common name, and its key."""
    ca = x509.load_pem_x509_certificate(identity.ca_certificate)
    ca_key = serialization.load_pem_private_key(identity.ca_key, password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(names[0]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=SERVER_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem_key(key)


def client_data(
    identity: ServerIdentity, namespace: str, data: dict[str, str] | None, now: datetime
) -> dict[str, str] | None:
    """`data` of the Secret with which Pods of a namespace show who they are; None where the one there is good: of our
    CA, of this namespace, with its key, and not running out."""
    try:
        found = x509.load_pem_x509_certificate(base64.b64decode((data or {})[CLIENT_CERTIFICATE]))
        key = serialization.load_pem_private_key(base64.b64decode((data or {})[CLIENT_KEY]), password=None)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(identity.ca_certificate))
        named = [str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        lasting = found.not_valid_after_utc - now >= RENEW_BEFORE
        if named == [namespace] and lasting and key.public_key() == found.public_key():
            return None
    except (KeyError, ValueError, TypeError, InvalidSignature):
        pass
    certificate, private = _issue(identity, (namespace,), ExtendedKeyUsageOID.CLIENT_AUTH, now)
    parts = {CLIENT_CERTIFICATE: certificate, CLIENT_KEY: private}
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


def needs_renewal(identity: ServerIdentity, names: tuple[str, ...], now: datetime) -> bool:
    """Whether the server certificate runs out soon or lacks a name."""
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    have = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    covered = set(names) <= set(have.get_values_for_type(x509.DNSName))
    return not covered or certificate.not_valid_after_utc - now < RENEW_BEFORE


def current_identity(data: dict[str, str] | None, names: tuple[str, ...], now: datetime) -> ServerIdentity:
    """The identity in the Secret where it is good, renewed where it runs out, new where it is missing or broken."""
    try:
        identity = ServerIdentity.from_data(data or {})
        return renew(identity, names, now) if needs_renewal(identity, names, now) else identity
    except (KeyError, ValueError, x509.ExtensionNotFound):
        return make_identity(names, now)
