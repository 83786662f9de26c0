"""Labels that come later are joined with what was answered."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from ecompile_crds.errors import DataError
from ecompile_workers.serving.feedback import Feedback
from ecompile_workers.serving.protocol import InferRequest


def answer(*, best: int, path: str = "compiled", rows: int = 1) -> SimpleNamespace:
    y = np.zeros((rows, 4), dtype=np.float32)
    y[:, best] = 1.0
    return SimpleNamespace(y=y, outcome=SimpleNamespace(path=path))


def remembering(*answers: tuple[str, SimpleNamespace], capacity: int = 10) -> Feedback:
    feedback = Feedback(capacity)
    for identifier, each in answers:
        request = InferRequest(each.y, identifier=identifier)
        feedback.remembering(lambda request, answer: None)(request, each)  # type: ignore[arg-type]  # what is read of it
    return feedback


def send(feedback: Feedback, *entries: object) -> tuple[int, int]:
    return feedback.take(orjson.dumps({"feedback": entries}))


def test_labels_are_counted_by_path_and_once() -> None:
    feedback = remembering(("a", answer(best=1)), ("b", answer(best=2, path="neural")), ("c", answer(best=3)))
    labels = [{"id": "a", "label": 1}, {"id": "b", "label": 0}, {"id": "c", "correct": False}, {"id": "d", "label": 1}]
    assert send(feedback, *labels) == (3, 1)
    assert feedback.counts == {("compiled", True): 1, ("neural", False): 1, ("compiled", False): 1}
    assert send(feedback, {"id": "a", "label": 1}) == (0, 1)
    assert feedback.unmatched == 2


def test_oldest_answer_is_forgotten_first() -> None:
    feedback = remembering(*((str(n), answer(best=0)) for n in range(5)), capacity=2)
    assert send(feedback, *({"id": str(n), "label": 0} for n in range(5))) == (2, 3)


def test_client_that_tells_the_answer_needs_no_memory() -> None:
    """The label of a request may reach another pod than the request did."""
    feedback = remembering()
    assert send(feedback, {"id": "x", "label": 2, "path": "neural", "prediction": 2}) == (1, 0)
    assert send(feedback, {"id": "y", "correct": True, "path": "mixed"}) == (1, 0)
    assert feedback.counts == {("neural", True): 1, ("mixed", True): 1}


def test_answer_of_several_rows_has_no_class() -> None:
    feedback = remembering(("a", answer(best=1, rows=2)), ("b", answer(best=1, rows=2)))
    assert send(feedback, {"id": "a", "label": 1}, {"id": "b", "correct": True}) == (1, 1)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "not JSON"),
        (b"[]", "a list named feedback"),
        (b'{"feedback":[]}', "a list named feedback"),
        (b'{"feedback":[3]}', r"feedback\[0\]\.id"),
        (b'{"feedback":[{"id":""}]}', r"feedback\[0\]\.id"),
        (b'{"feedback":[{"id":"a"}]}', "either label"),
        (b'{"feedback":[{"id":"a","label":1,"correct":true}]}', "either label"),
        (b'{"feedback":[{"id":"a","label":1.5}]}', r"\.label"),
        (b'{"feedback":[{"id":"a","label":true}]}', r"\.label"),
        (b'{"feedback":[{"id":"a","correct":1}]}', r"\.correct"),
        (b'{"feedback":[{"id":"a","label":1,"path":"best"}]}', r"\.path"),
        (b'{"feedback":[{"id":"a","label":1,"path":"neural","prediction":-1}]}', r"\.prediction"),
    ],
)
def test_bad_feedback_is_refused_whole(body: bytes, sentence: str) -> None:
    feedback = remembering(("a", answer(best=1)))
    with pytest.raises(DataError, match=sentence):
        feedback.take(body)
    assert feedback.counts == {} and send(feedback, {"id": "a", "label": 1}) == (1, 0)
