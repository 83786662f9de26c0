"""The checker accepts what is true and names what is not: by hand, and by a thousand seeded corruptions."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecompile_workers.certify import checker
from ecompile_workers.certify.certificate import graph_digest, write_certificate
from ecompile_workers.certify.checker import FalseClaim, check
from ecompile_workers.certify.network import read_chain
from ecompile_workers.certify.prove import prove
from ecompile_workers.certify.regions import Hit, RegionTree

from .cases import box_rows, normed_graph, small_case, small_certificate
from .mutations import CORRUPTIONS, changed_network
from .second_opinion import is_true

SEEDS = (0, 1, 2)
PER_KIND = 40
NETWORK_CHANGES = 150
TRUE_SHARE = 0.1
"""Corruptions that may turn out to change nothing that is claimed."""


def document(seed: int = 0) -> dict[str, Any]:
    return dict(json.loads(small_certificate(seed)))


def verdict(seed: int, changed: dict[str, Any]) -> str:
    """What the checker says; empty where it accepts."""
    try:
        check(small_case(seed)[0], json.dumps(changed).encode())
    except FalseClaim as error:
        return error.message
    return ""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_true_certificate_is_accepted(seed: int) -> None:
    graph, _, tree = small_case(seed)
    assert check(graph, small_certificate(seed)) == len(tree.regions) > 1
    assert is_true(graph, document(seed))


def test_equal_input_gives_equal_bytes() -> None:
    graph, _, tree = small_case(0)
    assert write_certificate(graph, tree) == small_certificate(0)


def test_batch_norms_and_shifts_are_certified() -> None:
    graph = normed_graph([3, 8, 6, 2], seed=4)
    lower, upper = np.full(3, -0.05, np.float32), np.full(3, 0.05, np.float32)
    region = prove(read_chain(graph), lower, upper)
    tree = RegionTree(lower=lower, upper=upper, nodes=(Hit(region=0),), regions=(region,), last_relu=False)
    assert check(graph, write_certificate(graph, tree)) == 1


def test_another_network_is_refused() -> None:
    with pytest.raises(FalseClaim, match="digest of this network"):
        check(small_case(1)[0], small_certificate(0))


def test_a_unit_that_switches_is_named() -> None:
    changed = document()
    region = next(r for r in changed["regions"] if any("." in units for units in r["units"]))
    layer = next(i for i, units in enumerate(region["units"]) if "." in units)
    unit = region["units"][layer].index(".")
    region["units"][layer] = region["units"][layer].replace(".", "=", 1)
    assert f"unit {unit} of layer {layer} can switch, but is said to be =" in verdict(0, changed)


def test_a_bound_that_is_too_small_is_named() -> None:
    changed = document()
    changed["regions"][1]["realBound"][0] *= 0.99
    assert "region 1: realBound is smaller" in verdict(0, changed)
    changed = document()
    changed["regions"][0]["bound"][1] *= 0.99
    assert "region 0: bound is smaller" in verdict(0, changed)


def test_a_box_that_the_tree_does_not_keep_is_named() -> None:
    changed = document()
    changed["regions"][0]["box"]["upper"][0] += 0.25
    assert "region 0: its box is what the tree sends to it" in verdict(0, changed)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"schemaVersion":1}', b"[" * 10_000, b'"' + b"9" * 5000]
)
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(FalseClaim):
        check(small_case(0)[0], content)


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_no_false_certificate_is_accepted(corrupt: Any) -> None:
    """What is accepted all the same is proven to be still true by an independent implementation."""
    outcomes = Counter[str]()
    for seed in SEEDS:
        for number in range(PER_KIND):
            rng = np.random.default_rng([seed, number, CORRUPTIONS.index(corrupt)])
            changed = document(seed)
            corrupt(changed, rng)
            if changed == document(seed):
                continue
            said = verdict(seed, changed)
            outcomes["refused" if said else "accepted"] += 1
            if not said:
                assert is_true(small_case(seed)[0], changed), f"{corrupt.__name__} {seed} {number}"
    assert outcomes["refused"] >= (1 - TRUE_SHARE) * outcomes.total() > 0, outcomes


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_network_is_refused_unless_the_claims_are_true_of_it(seed: int) -> None:
    """The digest is made to fit, so that only the claims can tell."""
    graph = small_case(seed)[0]
    accepted = 0
    for number in range(NETWORK_CHANGES):
        other = changed_network(graph, np.random.default_rng([seed, number]))
        with pytest.raises(FalseClaim, match="digest of this network"):
            check(other, small_certificate(seed))
        changed = document(seed) | {"graph": graph_digest(other)}
        try:
            check(other, json.dumps(changed).encode())
        except FalseClaim:
            continue
        accepted += 1
        assert is_true(other, changed), number
    assert accepted < NETWORK_CHANGES / 2


def test_there_are_a_thousand_corruptions() -> None:
    assert len(SEEDS) * (PER_KIND * len(CORRUPTIONS) + 2 * NETWORK_CHANGES) >= 1000


def test_the_checker_stays_small_and_imports_nothing_but_the_ir() -> None:
    source = Path(checker.__file__).read_text()
    assert len(source.splitlines()) <= 500
    ours = re.findall(r"^from (\.+\S*) import|^from (ecompile\S*) import", source, re.MULTILINE)
    assert {a or b for a, b in ours} == {"..ir", "..ir.attributes", "..ir.graph", "ecompile_crds.errors"}


def test_routing_and_boxes_agree() -> None:
    """Every row in a region's box that the tree finds is found in that region."""
    _, _, tree = small_case(0)
    from ecompile_workers.certify.regions import find

    for index, region in enumerate(tree.regions):
        inner = box_rows(region.lower, region.upper, 40, seed=index)
        inside = inner[((inner > region.lower) & (inner < region.upper)).all(axis=1)]
        assert all(find(tree, row) == index for row in inside)
