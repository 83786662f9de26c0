"""List, watch, and what happens when either breaks; in virtual time, against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from ecompile_operator.kube.client import KubeClient, Manifest, Page
from ecompile_operator.kube.errors import Gone, KubeError, Unavailable
from ecompile_operator.kube.kinds import POD, Kind
from ecompile_operator.kube.watch import Change, Watcher
from kubernetes.client import Configuration

from ..virtual_time import run

Clock = Callable[[], float]
Event = tuple[str, Manifest]


def pod(name: str, version: int) -> Manifest:
    return {"metadata": {"name": name, "namespace": "test", "resourceVersion": str(version), "labels": {"a": "b"}}}


class ScriptedClient(KubeClient):
    """Each list and each watch takes the next answer of its script; then watches wait for ever."""

    def __init__(self, lists: list[list[Manifest] | KubeError], watches: list[list[Event | KubeError]]) -> None:
        super().__init__(Configuration())
        self.lists = lists
        self.watches = watches
        self.watched_from: list[str] = []
        self.listed = 0

    async def pages(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page]:
        self.listed += 1
        answer = self.lists.pop(0)
        if isinstance(answer, KubeError):
            raise answer
        for start in range(0, max(len(answer), 1), 2):
            yield Page(answer[start : start + 2], str(100 * self.listed))

    async def watch(
        self, kind: Kind, namespace: str | None, *, labels: str, resource_version: str, timeout_seconds: int
    ) -> AsyncIterator[Event]:
        self.watched_from.append(resource_version)
        if not self.watches:
            await asyncio.sleep(1e9)
        for answer in self.watches.pop(0):
            if isinstance(answer, KubeError):
                raise answer
            yield answer


def follow(
    lists: list[list[Manifest] | KubeError], watches: list[list[Event | KubeError]], *, seconds: float = 1000.0
) -> tuple[ScriptedClient, list[tuple[Change, str]]]:
    """Run a watcher for a while; the client and what the sink was told."""
    client = ScriptedClient(lists, watches)
    told: list[tuple[Change, str]] = []

    async def main(clock: Clock) -> None:
        def sink(change: Change, manifest: Manifest) -> None:
            told.append((change, manifest["metadata"]["name"]))

        watcher = Watcher(client, POD, labels="x=y", namespaces=(), sink=sink, clock=clock)
        task = asyncio.create_task(watcher.run())
        await asyncio.sleep(seconds)
        assert watcher.synced.is_set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main)
    return client, told


def test_listed_and_watched_objects_reach_the_sink() -> None:
    _, told = follow([[pod("a", 1)]], [[("ADDED", pod("b", 101)), ("DELETED", pod("a", 102))]])
    assert told == [("applied", "a"), ("applied", "b"), ("deleted", "a")]


def test_a_watch_that_ends_goes_on_from_the_last_version_without_a_list() -> None:
    client, _ = follow([[]], [[("ADDED", pod("b", 107))]])
    assert client.watched_from == ["100", "107"]
    assert client.listed == 1


def test_a_bookmark_moves_the_version_and_tells_nobody() -> None:
    client, told = follow([[]], [[("BOOKMARK", pod("", 150))]])
    assert client.watched_from == ["100", "150"]
    assert told == []


def test_a_broken_watch_goes_on_from_the_last_version() -> None:
    client, _ = follow([[]], [[("ADDED", pod("b", 107)), Unavailable("reset")]])
    assert client.watched_from == ["100", "107"]


def test_a_version_too_old_means_a_new_list_and_deletions_missed_meanwhile_are_told() -> None:
    client, told = follow([[pod("a", 1), pod("b", 2)], [pod("b", 2)]], [[Gone("too old")]])
    assert client.listed == 2
    assert told == [("applied", "a"), ("applied", "b"), ("applied", "b"), ("deleted", "a")]
    assert client.watched_from == ["100", "200"]


def test_a_server_away_for_minutes_is_waited_for() -> None:
    away: list[list[Manifest] | KubeError] = [Unavailable("refused") for _ in range(40)]
    client, told = follow([*away, [pod("a", 1)]], [])
    assert client.listed == 41
    assert told == [("applied", "a")]


def test_a_long_list_reaches_the_sink_page_by_page() -> None:
    _, told = follow([[pod(name, 1) for name in "abcde"]], [])
    assert told == [("applied", name) for name in "abcde"]


def test_the_wait_grows_to_ten_seconds_and_starts_small_again_after_a_success() -> None:
    broken: list[list[Event | KubeError]] = [[("BOOKMARK", pod("", 150)), Unavailable("reset")] for _ in range(50)]
    client, _ = follow([[]], broken, seconds=25.0)
    assert len(client.watched_from) == 51, "a watch that works between failures is not slowed down"
