"""When the kubelet is asked to restart the operator."""

from __future__ import annotations

from ecompile_operator.health import MAX_LAG_SECONDS, MAX_WATCH_AGE_SECONDS, Health


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_blocked_event_loop_is_a_fault() -> None:
    clock = Clock()
    health = Health(clock=clock)
    assert health.trouble() == ""
    clock.now = MAX_LAG_SECONDS + 1
    assert "event loop blocked for 11.0 s" in health.trouble()


def test_a_silent_watch_is_a_fault_only_while_the_api_server_answers() -> None:
    clock = Clock()
    health = Health(clock=clock)
    health.watch_age = lambda: MAX_WATCH_AGE_SECONDS + 1
    assert "silent" in health.trouble()
    clock.now = 100.0
    health.tick()
    assert health.trouble() == ""


def test_an_answer_is_noticed() -> None:
    clock = Clock()
    health = Health(clock=clock)
    health.watch_age = lambda: MAX_WATCH_AGE_SECONDS + 1
    health.answers = lambda: int(clock.now)
    clock.now = 100.0
    health.tick()
    assert "silent" in health.trouble()
