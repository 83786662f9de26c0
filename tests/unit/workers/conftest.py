"""Networks for the tests: small random ones made here, and real ones where they are beside the project."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecompile_workers.distill import calibrate
from ecompile_workers.distill.costs import CostModel, Work

ROOT = Path(__file__).parents[3]
COSTS = CostModel(
    compiled={
        Work.CALL: 2e-7,
        Work.STEP: 1e-8,
        Work.NEAR: 1e-11,
        Work.MIDDLE: 2e-11,
        Work.FAR: 4e-11,
        Work.PRODUCT: 2e-11,
        Work.PLAIN: 1e-10,
        Work.FUNCTION: 5e-10,
    },
    neural={
        Work.CALL: 3e-6,
        Work.STEP: 6e-7,
        Work.NEAR: 3e-11,
        Work.MIDDLE: 3e-11,
        Work.FAR: 5e-11,
        Work.PRODUCT: 3e-11,
        Work.PLAIN: 1e-10,
        Work.FUNCTION: 6e-10,
    },
)
"""Of an ordinary machine, so that tests neither measure nor depend on where they run."""


@pytest.fixture(scope="session", autouse=True)
def known_costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cost model in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECO_CACHE", str(tmp_path_factory.mktemp("cache")))
        if shutil.which("clang") or shutil.which("gcc"):
            calibrate.keep(COSTS)
        yield


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of real networks; tests that need it skip where it is missing."""
    found = Path(os.environ.get("ECO_SHARED", ROOT.parent / "shared")) / "models"
    if not found.is_dir():
        pytest.skip(f"no real networks: {found} is missing")
    return found
