"""Quiet torch: its tracing log has thousands of lines per export, which pytest would keep for each test."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_torch_trace() -> None:
    logging.getLogger("torch.__trace").propagate = False
