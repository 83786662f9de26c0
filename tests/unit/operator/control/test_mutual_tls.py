"""The control stream over TLS: certificates of clients, and a renewed one without a restart. Real sockets."""

from __future__ import annotations

import asyncio
import base64
import ssl
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.names import CLIENT_CERTIFICATE, CLIENT_KEY
from ecompile_operator.control.auth import Caller
from ecompile_operator.control.hub import Hub
from ecompile_operator.control.server import ControlServicer, start_server
from ecompile_operator.control.tls import ServerIdentity, client_data, make_identity, renew

NAMES = ("localhost",)


def now() -> datetime:
    return datetime.now(UTC)


class Everyone:
    """Any token is good, and is that of shop/pod-1."""

    async def caller(self, token: str) -> Caller:
        return Caller(namespace="shop", pod="pod-1")


class Control:
    """A server with one identity that can be replaced."""

    def __init__(self, *, mutual: bool) -> None:
        self.identity, self.mutual, self.port = make_identity(NAMES, now()), mutual, 0

    async def __aenter__(self) -> Control:
        servicer = ControlServicer(
            Hub(lambda key: None, now),
            Everyone(),  # type: ignore[arg-type]  # what is asked of an Authenticator
            now=now,
            leading=lambda: True,
            mutual=self.mutual,
        )
        self.server, self.port = await start_server(servicer, lambda: self.identity, 0, mutual=self.mutual)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.server.stop(0)

    async def progress(self, client: tuple[bytes, bytes] | None) -> int:
        """Messages that the server took."""
        certificate, key = client or (None, None)
        credentials = grpc.ssl_channel_credentials(self.identity.ca_certificate, key, certificate)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options) as channel:
            metadata = (("authorization", "Bearer t"),)
            call = control_pb2_grpc.ControlStub(channel).Progress(messages(), metadata=metadata, timeout=5)
            return int((await call).received)


async def messages() -> AsyncIterator[control_pb2.JobProgress]:
    yield control_pb2.JobProgress(namespace="shop", model="m", job="m-profile", step="read", fraction=0.5)


def client(identity: ServerIdentity, namespace: str) -> tuple[bytes, bytes]:
    data = client_data(identity, namespace, None, now())
    assert data is not None
    return base64.b64decode(data[CLIENT_CERTIFICATE]), base64.b64decode(data[CLIENT_KEY])


async def test_client_with_the_certificate_of_its_namespace_is_heard() -> None:
    async with Control(mutual=True) as control:
        assert await control.progress(client(control.identity, "shop")) == 1


async def test_client_of_another_namespace_is_refused_although_its_token_is_good() -> None:
    async with Control(mutual=True) as control:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await control.progress(client(control.identity, "other"))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "not one of namespace shop" in str(refused.value.details())


@pytest.mark.parametrize("foreign", [False, True], ids=["no certificate", "of another CA"])
async def test_client_without_a_certificate_of_ours_gets_no_connection(foreign: bool) -> None:
    async with Control(mutual=True) as control:
        shown = client(make_identity(NAMES, now()), "shop") if foreign else None
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await control.progress(shown)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_mutual_tls_a_token_is_enough() -> None:
    async with Control(mutual=False) as control:
        assert await control.progress(None) == 1


async def test_renewed_certificate_is_shown_without_a_restart() -> None:
    """To the next connection."""
    async with Control(mutual=True) as control:
        shown = client(control.identity, "shop")
        before = await _certificate(control.port, shown, control.identity)
        assert before == _serial(control.identity)
        control.identity = renew(control.identity, NAMES, now())
        assert await _certificate(control.port, shown, control.identity) == _serial(control.identity) != before
        assert await control.progress(shown) == 1


def _serial(identity: ServerIdentity) -> int:
    return x509.load_pem_x509_certificate(identity.certificate).serial_number


async def _certificate(port: int, shown: tuple[bytes, bytes], identity: ServerIdentity) -> int:
    """Serial number of the certificate that the server shows."""

    context = ssl.create_default_context(cadata=identity.ca_certificate.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(shown[0] + shown[1])
        file.flush()
        context.load_cert_chain(file.name)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(found).serial_number


def test_client_certificate_is_kept_while_it_is_good() -> None:
    identity, start = make_identity(NAMES, now()), now()
    data = client_data(identity, "shop", None, start)
    assert client_data(identity, "shop", data, start) is None
    assert client_data(identity, "shop", data, start + timedelta(days=340)) is not None
    assert client_data(identity, "other", data, start) is not None
    assert client_data(make_identity(NAMES, start), "shop", data, start) is not None
    assert client_data(identity, "shop", {CLIENT_CERTIFICATE: "!", CLIENT_KEY: ""}, start) is not None
