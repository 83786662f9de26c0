"""The chart's Prometheus rules fire when they should, as promtool computes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "ecompile" / "files" / "rules" / "ecompile.yaml"
PROMTOOL = os.environ.get("ECO_PROMTOOL") or shutil.which("promtool")

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not there: install the package `prometheus`, or set ECO_PROMTOOL"
)


def promtool(*arguments: str) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_well_formed() -> None:
    promtool("check", "rules", str(RULES))


def test_rules_that_roll_back_fire_above_the_model_s_limits(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    case = tmp_path / "test.yaml"
    case.write_text((Path(__file__).parent / "rules" / "rollback_test.yaml").read_text())
    promtool("test", "rules", str(case))
