"""Proven regions: compiled code against the interpreter within the stated bound, misses, bundles, declining."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import Code, ModelError
from ecompile_crds.evidence import EvidenceKind
from ecompile_crds.hybridmodel import Distill, Strategy, Target
from ecompile_workers.certify.certificate import write_certificate
from ecompile_workers.certify.checker import check
from ecompile_workers.certify.network import read_chain
from ecompile_workers.certify.prove import prove
from ecompile_workers.certify.regions import Hit, RegionTree, find, hit_share
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.codegen.bundle import read_bundle, write_bundle
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.distill import orchestrator
from ecompile_workers.distill.grow import Limits
from ecompile_workers.distill.outcome import Declined
from ecompile_workers.distill.regions import Regions, find_regions
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Op
from ecompile_workers.ir.load import load_source
from ecompile_workers.ir.to_onnx import export
from numpy.typing import NDArray

from ..certify.attack import gradient
from ..certify.cases import as_float32, box_rows, small_case
from ..networks import KEY, make_graph, wide_box
from .times import told_times

LEVELS = cpu_levels()
ATTACKS = 20_000


@pytest.fixture(scope="module", params=["1_1", "3_3"])
def acas(request: pytest.FixtureRequest, shared_models: Path) -> Iterator[Graph]:
    path = shared_models / "acasxu" / f"ACASXU_run2a_{request.param}_batch_2000.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing")
    yield load_source(path).graph


def traffic(graph: Graph, count: int, seed: int) -> NDArray[np.float32]:
    """Inputs of ACAS Xu's property 3: an intruder ahead, moving towards the ship."""
    lower, upper = np.array([-0.3035, -0.0095, 0.4934, 0.3, 0.3]), np.array([-0.2986, 0.0095, 0.5, 0.5, 0.5])
    rows = box_rows(lower.astype(np.float32), upper.astype(np.float32), count, seed=seed)
    return rows.reshape(count, *graph.input.shape)


def compiled(graph: Graph, guard: GuardBox, tree: RegionTree | None, level: str) -> CompiledFunction:
    found = compile_graph(graph, guard, levels=[level], optimisation="O2", regions=tree)
    return CompiledFunction(found.libraries[level], macs=found.macs)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_compiled_regions_stay_within_their_bounds(level: str, seed: int) -> None:
    graph, _, tree = small_case(seed)
    module = compiled(graph, wide_box(3), tree, level)
    for region in tree.regions:
        rows = box_rows(region.lower, region.upper, 3000, seed=seed)
        reason, y = module(rows)
        assert reason == 0
        error = np.abs(y - interpreter.run(graph, rows)).max(axis=0)
        assert (error <= region.real_bound).all()


@pytest.mark.parametrize("seed", range(3))
def test_no_search_breaks_a_stated_bound(seed: int) -> None:
    """Climbs from the worst random rows: along the gradient, and by random steps; against both kinds of original."""
    graph, chain, tree = small_case(seed)
    module = compiled(graph, wide_box(3), tree, LEVELS[0])
    rng = np.random.default_rng(seed)
    for region in tree.regions:
        originals = {
            "real": (lambda rows: interpreter.run(graph, rows), region.real_bound),
            "forwards": (lambda rows: as_float32(chain, rows, backwards=False), region.bound),
            "backwards": (lambda rows: as_float32(chain, rows, backwards=True), region.bound),
        }
        for original, bound in originals.values():
            for output in range(graph.output.size):
                rows = box_rows(region.lower, region.upper, 1000, seed=seed)
                for _ in range(8):
                    error = np.abs(module(rows)[1] - original(rows))[:, output]
                    assert error.max() <= bound[output]
                    worst = rows[np.argsort(error)[-50:]].astype(np.float64)
                    slope = gradient(chain, worst, len(chain.layers) - 1, output)
                    reach = region.upper.astype(np.float64) - region.lower
                    steps = [rng.normal(size=worst.shape) * reach * size for size in (0.3, 1e-3, 1e-6)]
                    steps += [np.sign(slope) * reach * size for size in (0.1, -0.1)]
                    moved = np.concatenate([worst + step for step in steps]).astype(np.float32)
                    rows = np.clip(moved, region.lower, region.upper)


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_gets_the_same_bits_in_any_batch(level: str) -> None:
    """Hits and misses mixed: some rows lie outside of the tree's box, some in its miss."""
    graph, _, tree = small_case(1)
    module = compiled(graph, wide_box(3), tree, level)
    rows = np.random.default_rng(0).uniform(-0.7, 0.8, size=(150, 3)).astype(np.float32)
    assert 0.2 < hit_share(tree, rows) < 0.8
    alone = np.concatenate([module(row[None])[1] for row in rows])
    for batch in (2, 7, 64, 150):
        together = np.concatenate([module(rows[i : i + batch])[1] for i in range(0, len(rows), batch)])
        assert together.tobytes() == alone.tobytes()


def test_misses_are_answered_by_the_dense_code() -> None:
    graph, _, tree = small_case(2)
    rows = np.random.default_rng(1).uniform(-1, 1.2, size=(300, 3)).astype(np.float32)
    missed = np.array([find(tree, row) is None for row in rows])
    ours = compiled(graph, wide_box(3), tree, LEVELS[0])(rows)[1]
    dense = compiled(graph, wide_box(3), None, LEVELS[0])(rows)[1]
    assert missed.any()
    assert ours[missed].tobytes() == dense[missed].tobytes()


def test_what_the_guard_refuses_stays_refused() -> None:
    graph, _, tree = small_case(0)
    module = compiled(graph, wide_box(3, reach=2.0), tree, LEVELS[0])
    for bad in (np.nan, np.inf, 3.0):
        assert module(np.array([[0.0, bad, 0.0]], np.float32))[0] == 1


def test_a_last_relu_is_kept() -> None:
    graph = make_graph([3, 8, 4], seed=2, last=Op.RELU)
    chain = read_chain(graph)
    assert chain.last_relu
    lower, upper = np.full(3, -0.2, np.float32), np.full(3, 0.2, np.float32)
    region = prove(chain, lower, upper)
    tree = RegionTree(lower=lower, upper=upper, nodes=(Hit(region=0),), regions=(region,), last_relu=True)
    assert check(graph, write_certificate(graph, tree)) == 1
    rows = box_rows(lower, upper, 500, seed=1)
    error = np.abs(compiled(graph, wide_box(3), tree, LEVELS[0])(rows)[1] - interpreter.run(graph, rows))
    assert (error.max(axis=0) <= region.real_bound).all()


def test_acas_traffic_is_covered_and_within_bounds(acas: Graph) -> None:
    found = find_regions(acas, traffic(acas, 3000, 0), Limits(max_regions=12, max_boxes=600))
    assert isinstance(found, Regions), found
    assert found.evidence.kind is EvidenceKind.PROVEN
    assert found.hit_share > 0.95
    rows = traffic(acas, ATTACKS, 1)
    flat = rows.reshape(len(rows), -1)
    guard = GuardBox(lower=flat.min(axis=0) - 1, upper=flat.max(axis=0) + 1)
    reason, y = compiled(acas, guard, found.tree, LEVELS[0])(flat)
    assert reason == 0
    error = np.abs(y - interpreter.run(acas, rows).reshape(len(rows), -1))
    assert hit_share(found.tree, flat) > 0.95
    for row, deviation in zip(flat, error, strict=True):
        region = find(found.tree, row)
        if region is not None:
            assert (deviation <= found.tree.regions[region].real_bound).all()


def test_equal_traffic_gives_an_equal_certificate(acas: Graph) -> None:
    limits = Limits(max_regions=4, max_boxes=100)
    pair = [find_regions(acas, traffic(acas, 600, 0), limits) for _ in range(2)]
    found = [each.certificate for each in pair if isinstance(each, Regions)]
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("graph", "rows", "reason"),
    [
        (make_graph([3, 4, 2], Op.TANH), 500, "not a chain of matrices and ReLUs"),
        (make_graph([3, 40, 40, 2]), 20, "20 calibration rows"),
        (make_graph([80, 60, 60, 4], seed=1), 500, "no box that holds traffic"),
    ],
)
def test_it_declines_with_the_reason(graph: Graph, rows: int, reason: str) -> None:
    found = find_regions(graph, np.random.default_rng(0).normal(size=(rows, graph.input.size)).astype(np.float32))
    assert isinstance(found, Declined)
    assert reason in found.reason


@pytest.mark.parametrize(("gain", "strategy"), [(2.0, "regions"), (1.0, "exact")])
def test_regions_serve_where_the_measurement_says_so(acas: Graph, gain: float, strategy: str) -> None:
    policy = Distill(strategies=[Strategy.EXACT, Strategy.REGIONS], targets=[Target(LEVELS[0])])
    found = orchestrator.distill(
        acas,
        export(acas).SerializeToString(),
        traffic(acas, 1000, 0).reshape(1000, -1),
        policy,
        measure=told_times(1e-6, 1e-6 / gain),
    )
    assert isinstance(found, orchestrator.Distilled), found
    assert found.strategy == strategy
    assert (found.replacement.regions is not None) == (strategy == "regions")
    assert [each.microseconds for each in found.candidates] == [1.0, 1.0 / gain]
    assert found.evidence.kind is EvidenceKind.SAMPLED
    if strategy == "regions":
        assert found.evidence.proven_coverage is not None and found.evidence.proven_coverage > 0.9


def make_bundle(certificate: bytes | None) -> bytes:
    graph, _, tree = small_case(0)
    found = compile_graph(graph, wide_box(3), levels=[LEVELS[0]], optimisation="O0", regions=tree)
    return write_bundle(
        graph=graph, compiled=found, guard=wide_box(3), meta={"model": "net"}, key=KEY, certificate=certificate
    )


def test_a_bundle_is_opened_after_its_proof_was_checked() -> None:
    graph, _, tree = small_case(0)
    bundle = read_bundle(make_bundle(write_certificate(graph, tree)), [KEY.public_key()])
    assert bundle.meta["proven"] is True
    assert bundle.load(LEVELS).outputs == 2


def test_a_signed_bundle_with_a_false_proof_is_refused() -> None:
    graph, _, tree = small_case(0)
    document = json.loads(write_certificate(graph, tree))
    document["regions"][0]["bound"][0] *= 0.5
    with pytest.raises(ModelError, match="region 0: bound is smaller") as caught:
        read_bundle(make_bundle(json.dumps(document).encode()), [KEY.public_key()])
    assert caught.value.code is Code.NOT_EQUIVALENT


def test_equal_input_gives_equal_bytes() -> None:
    graph, _, tree = small_case(0)
    assert make_bundle(write_certificate(graph, tree)) == make_bundle(write_certificate(graph, tree))
