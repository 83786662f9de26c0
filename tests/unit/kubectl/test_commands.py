"""Commands are annotations; the operator's answer is what is printed."""

from __future__ import annotations

from typing import Any

import pytest
from ecompile_crds.names import ANNOTATION_COMMAND
from ecompile_kubectl.arguments import parse
from ecompile_kubectl.commands import checked_token, give, suspend, target_of
from ecompile_kubectl.problem import Problem
from ecompile_operator.decide.commands import Verb
from ecompile_operator.kube.client import Manifest
from ecompile_operator.kube.kinds import Kind

from ..operator.children import NAMESPACE, model
from ..operator.fake_api import FakeClient
from ..operator.virtual_time import VirtualLoop


class Answering(FakeClient):
    """Answers a command as the operator would, `delay` reads later; never where `delay` is None."""

    def __init__(self, answer: str = "rollback: net-s0", delay: int | None = 2) -> None:
        super().__init__()
        self._answer, self._delay = answer, delay
        self._asked: str | None = None
        self.objects[("HybridModel", NAMESPACE, "net")] = model()

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        stored = self.objects[(kind.kind, namespace, name)]
        for part in ("metadata", "spec"):
            stored[part] = {**stored[part], **patch.get(part, {})}
        self._asked = patch.get("metadata", {}).get("annotations", {}).get(ANNOTATION_COMMAND)
        return stored

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        found = await super().get(kind, namespace, name)
        if self._asked is not None and self._delay is not None:
            self._delay -= 1
            if self._delay <= 0:
                token = self._asked.split()[1]
                found["status"] = {"lastCommand": {"token": token, "command": self._asked, "answer": self._answer}}
        return found


def run(client: FakeClient, *, token: str = "t-1", wait_seconds: float = 5.0) -> str:
    loop = VirtualLoop()
    target = target_of(NAMESPACE, "net", None)
    try:
        given = give(client, target, Verb.ROLLBACK, token, clock=loop.time, wait_seconds=wait_seconds)
        return loop.run_until_complete(given)
    finally:
        loop.close()


def test_the_operator_s_answer_is_returned() -> None:
    client = Answering()
    assert run(client) == "rollback t-1: rollback: net-s0"
    assert client.objects[("HybridModel", NAMESPACE, "net")]["metadata"]["annotations"] == {
        ANNOTATION_COMMAND: "rollback t-1"
    }


def test_a_refusal_is_a_problem() -> None:
    with pytest.raises(Problem, match=r"refused: unknown command"):
        run(Answering("refused: unknown command"))


def test_a_repeated_token_does_nothing() -> None:
    client = Answering()
    run(client)
    with pytest.raises(Problem, match=r"has been used before: rollback t-1: rollback: net-s0\. Nothing was done"):
        run(client)


def test_an_operator_that_is_away_is_named() -> None:
    with pytest.raises(Problem, match="has not answered within 5 s") as caught:
        run(Answering(delay=None))
    assert caught.value.status == 3


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(Problem, match="no HybridModel named net"):
        run(FakeClient())


async def test_pause_and_resume_say_when_there_is_nothing_to_do() -> None:
    client, target = Answering(), target_of(NAMESPACE, "net", None)
    assert "running already" in await suspend(client, target, wanted=False)
    assert "is paused: nothing advances" in await suspend(client, target, wanted=True)
    assert client.objects[("HybridModel", NAMESPACE, "net")]["spec"]["suspend"] is True
    assert "paused already" in await suspend(client, target, wanted=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["promot", "net"], "Did you mean promote?"),
        (["frobnicate", "net"], "Commands: status, explain"),
        ([], "Give a command"),
        (["promote"], "required: model"),
        (["logs", "net", "--kind", "pods"], "invalid choice: 'pods'"),
        (["status", "net", "--surprise"], "nrecognized arguments: --surprise"),
    ],
)
def test_what_is_not_understood_is_a_sentence(words: list[str], said: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(words)
    assert said in str(caught.value)
    assert caught.value.status == 2


def test_a_token_the_operator_would_refuse_is_not_sent() -> None:
    assert checked_token("2026-01-31-a") == "2026-01-31-a"
    with pytest.raises(Problem, match="is not 1 to 64 letters"):
        checked_token("two words")


def test_options_reach_the_command() -> None:
    found: Any = parse(["rollback", "net", "-n", "team", "--module", "net-s0", "--token", "a"])
    assert (found.command, found.namespace, found.module, found.token) == ("rollback", "team", "net-s0", "a")
