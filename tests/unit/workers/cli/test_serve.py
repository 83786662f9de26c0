"""`ecompile serve`: what is checked before anything is served."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from ecompile_crds.errors import DataError, EcompileError, ModelError
from ecompile_crds.routing import RouteMode, RoutingTable
from ecompile_workers.cli.serve import ServeOptions, prepare
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.modules import trusted_keys

from tests.unit.workers.serving.world import World, make_world, oracle, rows, write_trust


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_trust(tmp_path / "keys")
    return make_world(tmp_path / "world")


def bundle(world: World, **meta: object) -> Path:
    """A bundle of the network in model.onnx, unless `meta` says otherwise."""
    digest = f"sha256:{hashlib.sha256((world.directory / 'model.onnx').read_bytes()).hexdigest()}"
    uri, _ = world.bundle(**({"sourceDigest": digest} | meta))  # type: ignore[arg-type]  # meta is open
    return Path(uri.removeprefix("file://"))


def options(world: World, tmp_path: Path, *bundles: Path) -> ServeOptions:
    return ServeOptions(
        source=world.directory / "model.onnx",
        bundles=bundles,
        key=tmp_path / "keys" / "signing.pub",
        artifacts=tmp_path / "artifacts",
    )


def test_network_and_module_are_served_as_in_a_pod(world: World, tmp_path: Path) -> None:
    """The plan, the trust and the table that are written are those that a pod reads."""
    directory = tmp_path / "made"
    directory.mkdir()
    settings = prepare(options(world, tmp_path, bundle(world)), directory, lambda text: None)
    pod = LocalPod(settings.plan_uri, keys=trusted_keys(settings.trust_dir))
    pod.adopt(RoutingTable.model_validate_json((settings.routing_dir / "routing.json").read_bytes()))
    outcome = pod.infer(rows(5))
    assert outcome.path == "compiled"
    assert outcome.y == pytest.approx(oracle(rows(5)), abs=1e-5)
    assert pod.bridge.network.plan.segments[0].stability is None
    pod.close()


def test_shadow_and_canary_reach_the_route(world: World, tmp_path: Path) -> None:
    """With weight and probability of a comparison."""
    directory = tmp_path / "made"
    directory.mkdir()
    asked = replace(options(world, tmp_path, bundle(world)), mode=RouteMode.CANARY, weight=0.25, compare=0.5)
    prepare(asked, directory, lambda text: None)
    (route,) = RoutingTable.model_validate_json((directory / "routing.json").read_bytes()).segments
    assert (route.mode, route.weight, route.compare) == (RouteMode.CANARY, 0.25, 0.5)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda o, w: replace(o, key=None), DataError, "--key"),
        (lambda o, w: replace(o, bundles=(bundle(w, sourceDigest="sha256:0"),)), ModelError, "give the network"),
        (lambda o, w: replace(o, bundles=o.bundles * 2), DataError, "another bundle"),
        (lambda o, w: replace(o, bundles=(Path("/nowhere.eco"),)), DataError, "/nowhere.eco"),
        (lambda o, w: replace(o, source=Path("/nowhere.onnx")), DataError, "/nowhere.onnx"),
    ],
    ids=["no key", "other network", "twice", "missing bundle", "missing network"],
)
def test_what_does_not_fit_is_told_before_serving(
    world: World, tmp_path: Path, change: object, error: type[EcompileError], sentence: str
) -> None:
    """One sentence, naming the file or the option."""
    directory = tmp_path / "made"
    directory.mkdir()
    assert callable(change)
    with pytest.raises(error, match=sentence):
        prepare(change(options(world, tmp_path, bundle(world)), world), directory, lambda text: None)
