"""Networks for the tests: small random ones made here, and real ones where they are beside the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of real networks; tests that need it skip where it is missing."""
    found = Path(os.environ.get("ECO_SHARED", ROOT.parent / "shared")) / "models"
    if not found.is_dir():
        pytest.skip(f"no real networks: {found} is missing")
    return found
