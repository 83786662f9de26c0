"""What Kopf is given."""

from __future__ import annotations

import inspect
import itertools

import kopf
from ecompile_operator.handlers import EndlessBackoff, register
from ecompile_operator.observe.cache import Cache


def test_event_handlers_run_in_the_event_loop_s_thread() -> None:
    registry = kopf.OperatorRegistry()
    register(registry, Cache(lambda key: None))
    handlers = registry._watching.get_all_handlers()
    assert len(handlers) == 1
    assert all(inspect.iscoroutinefunction(handler.fn) for handler in handlers)


def test_nothing_but_events_is_handled_so_that_objects_get_no_finalizers_or_annotations() -> None:
    registry = kopf.OperatorRegistry()
    register(registry, Cache(lambda key: None))
    assert not list(registry._changing.get_all_handlers())
    assert not list(registry._spawning.get_all_handlers())
    assert not list(registry._indexing.get_all_handlers())


def test_attempts_never_end() -> None:
    waits = list(itertools.islice(EndlessBackoff(), 1000))
    assert len(waits) == 1000
    assert max(waits) <= 5.0
