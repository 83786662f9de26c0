"""A certificate that someone else makes: waited for, refused with a sentence, and noticed when it was replaced."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from ecompile_operator.control.external_tls import ExternalCertificate, read_identity
from ecompile_operator.control.tls import make_identity, renew

from ..fake_api import FakeClient

NAMES = ("ecompile-control.system.svc",)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = ("Secret", "system", "ecompile-control-tls")


def made() -> dict[str, str]:
    """As cert-manager writes it: without the CA's key."""
    data = make_identity(NAMES, NOW).to_data()
    return {name: text for name, text in data.items() if name != "ca.key"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, "is not there yet"),
        ({"ca.crt": ""}, "has no ca.crt"),
        ({"tls.crt": ""}, "tls.crt or tls.key cannot be read"),
        ({"tls.key": "%%%"}, "tls.crt or tls.key cannot be read"),
    ],
)
def test_what_is_missing_is_said(change: dict[str, str] | None, text: str) -> None:
    identity, problem = read_identity({**made(), **change} if change is not None else None)
    assert identity is None and text in problem


def test_it_is_waited_for_and_noticed_when_replaced() -> None:
    async def go() -> None:
        api, waited = FakeClient(), []
        data = made()

        async def sleep(seconds: float) -> None:
            waited.append(seconds)
            api.objects[PLACE] = {"metadata": {"name": PLACE[2]}, "data": data}

        certificate = ExternalCertificate(api, "system", sleep=sleep)
        identity = await certificate.wait()
        assert len(waited) == 1 and identity.to_data()["tls.crt"] == data["tls.crt"]
        assert not await certificate.replaced(identity)
        whole = make_identity(NAMES, NOW)
        newer = renew(whole, NAMES, NOW).to_data()
        api.objects[PLACE] = {"metadata": {"name": PLACE[2]}, "data": newer}
        assert await certificate.replaced(identity)
        api.objects[PLACE] = {"metadata": {"name": PLACE[2]}, "data": {}}
        assert not await certificate.replaced(identity), "half-written is not replaced"
        assert not [call for call in api.calls if not call.startswith("get")]

    asyncio.run(go())
