"""Who holds a token, as TokenReview answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ecompile_operator.control.auth import CACHE_SECONDS, POD_NAME_EXTRA, REVIEWS_AT_A_TIME, Authenticator, Caller
from ecompile_operator.kube.client import Manifest
from ecompile_operator.kube.errors import Unavailable
from ecompile_operator.kube.kinds import Kind

from ..fake_api import FakeClient


class Reviewer(FakeClient):
    """Answers every TokenReview with the same status."""

    def __init__(self, **status: Any) -> None:
        super().__init__()
        self.status = status

    async def create(self, kind: Kind, namespace: str | None, manifest: Manifest) -> Manifest:
        self._check("review")
        return {**manifest, "status": self.status}


def good(**changes: Any) -> dict[str, Any]:
    user = {"username": "system:serviceaccount:team:default", "extra": {POD_NAME_EXTRA: ["net-0"]}}
    return {"authenticated": True, "audiences": ["ecompile"], "user": user, **changes}


def test_a_pod_s_token_names_the_pod() -> None:
    authenticator = Authenticator(Reviewer(**good()), lambda: 0.0)
    assert asyncio.run(authenticator.caller("t")) == Caller(namespace="team", pod="net-0")


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": False},
        good(audiences=["https://kubernetes.default.svc"]),
        good(user={"username": "system:serviceaccount:team:default"}),
        good(user={"username": "alice", "extra": {POD_NAME_EXTRA: ["net-0"]}}),
    ],
)
def test_other_tokens_name_nobody(status: dict[str, Any]) -> None:
    authenticator = Authenticator(Reviewer(**status), lambda: 0.0)
    assert asyncio.run(authenticator.caller("t")) is None


def test_an_answer_is_remembered_for_a_minute() -> None:
    now = 0.0
    client = Reviewer(**good())
    authenticator = Authenticator(client, lambda: now)
    for _ in range(3):
        asyncio.run(authenticator.caller("t"))
    assert len(client.calls) == 1
    now = CACHE_SECONDS
    asyncio.run(authenticator.caller("t"))
    assert len(client.calls) == 2


def test_an_api_server_that_cannot_be_asked_is_not_taken_for_a_no() -> None:
    client = Reviewer(**good())
    client.away = True
    with pytest.raises(Unavailable):
        asyncio.run(Authenticator(client, lambda: 0.0).caller("t"))


def test_many_pods_that_attach_at_once_take_turns_so_that_the_api_server_is_there_for_others() -> None:
    now = most = 0

    class Slow(Reviewer):
        async def create(self, kind: Kind, namespace: str | None, manifest: Manifest) -> Manifest:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            await asyncio.sleep(0)
            now -= 1
            return await super().create(kind, namespace, manifest)

    async def main() -> None:
        authenticator = Authenticator(Slow(**good()), lambda: 0.0)
        await asyncio.gather(*(authenticator.caller(f"token-{i}") for i in range(200)))

    asyncio.run(main())
    assert most == REVIEWS_AT_A_TIME
