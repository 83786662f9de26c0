"""The control stream's CA and server certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from ecompile_operator.control.tls import RENEW_BEFORE, SERVER_DAYS, current_identity, make_identity

NAMES = ("ecompile-control.system.svc", "localhost")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_certificate_names_the_service_and_is_signed_by_the_ca() -> None:
    identity = make_identity(NAMES, NOW)
    ca = x509.load_pem_x509_certificate(identity.ca_certificate)
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(names.get_values_for_type(x509.DNSName)) == NAMES
    certificate.verify_directly_issued_by(ca)
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)


def test_a_good_certificate_is_kept() -> None:
    identity = make_identity(NAMES, NOW)
    assert current_identity(identity.to_data(), NAMES, NOW + timedelta(days=100)) == identity


def test_a_certificate_that_runs_out_is_renewed_under_the_same_ca() -> None:
    identity = make_identity(NAMES, NOW)
    late = NOW + timedelta(days=SERVER_DAYS) - RENEW_BEFORE + timedelta(hours=1)
    renewed = current_identity(identity.to_data(), NAMES, late)
    assert renewed.ca_certificate == identity.ca_certificate
    assert renewed.certificate != identity.certificate


def test_a_missing_name_renews_the_certificate() -> None:
    identity = make_identity(NAMES, NOW)
    renewed = current_identity(identity.to_data(), (*NAMES, "new.example"), NOW)
    assert renewed.ca_certificate == identity.ca_certificate
    assert renewed.certificate != identity.certificate


@pytest.mark.parametrize(
    "data", [None, {}, {"ca.crt": "!!"}, {"ca.crt": "", "ca.key": "", "tls.crt": "", "tls.key": ""}]
)
def test_a_missing_or_broken_secret_gives_a_new_identity(data: dict[str, str] | None) -> None:
    identity = current_identity(data, NAMES, NOW)
    x509.load_pem_x509_certificate(identity.certificate)
