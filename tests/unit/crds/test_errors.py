"""The error taxonomy: every code has its statuses, and an answer carries what a client needs to retry."""

from __future__ import annotations

import grpc
import pytest
from ecompile_crds.errors import ERROR_CLASSES, Code, EcompileError, ResourceError


def make_error(code: Code) -> EcompileError:
    return ERROR_CLASSES[int(code) // 1000](code, "a sentence.")


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status_in_each_protocol(code: Code) -> None:
    """gRPC names are those of grpc.StatusCode."""
    error = make_error(code)
    assert 400 <= error.http_status <= 599
    assert hasattr(grpc.StatusCode, error.grpc_status)
    assert 10 < error.exit_status < 16


@pytest.mark.parametrize("code", [code for code in Code if code < 2000])
def test_faults_of_the_request_are_never_told_as_ours(code: Code) -> None:
    """1xxx is 4xx."""
    assert make_error(code).http_status in (400, 413)


def test_overload_tells_when_to_come_back() -> None:
    """429 and RESOURCE_EXHAUSTED, with the wait."""
    error = ResourceError(Code.OVERLOADED, "full.", retry_after_seconds=0.5)
    assert (error.http_status, error.grpc_status) == (429, "RESOURCE_EXHAUSTED")
    assert error.answer() == {"error": "full.", "code": 3009, "retryable": True, "retryAfterSeconds": 0.5}


def test_unknown_wait_is_left_out() -> None:
    """Nothing is invented."""
    assert "retryAfterSeconds" not in make_error(Code.INTERNAL).answer()
