"""The krew manifest names addresses that whoever builds it has chosen, and no others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

KREW = Path(__file__).parents[3] / "operator" / "krew"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "KREW_URI"),
        ({"KREW_URI": "https://example.org/plugin.tar.gz"}, "KREW_HOMEPAGE"),
        ({"KREW_URI": "http://example.org/plugin.tar.gz", "KREW_HOMEPAGE": "https://example.org"}, "KREW_URI"),
        ({"KREW_URI": "https://example.org/a|b", "KREW_HOMEPAGE": "https://example.org"}, "KREW_URI"),
    ],
)
def test_an_address_that_was_not_given_is_asked_for(given: dict[str, str], named: str) -> None:
    done = subprocess.run(
        ["sh", str(KREW / "build.sh")],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"krew: {named} must be an https:// address")


def test_the_manifest_template_invents_no_address() -> None:
    assert "http" not in (KREW / "ecompile.yaml.in").read_text()
