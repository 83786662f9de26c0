"""Loading of compiled modules: verified, warmed, shared, unloaded."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.errors import Code, EcompileError, ModelError, ResourceError
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RouteMode
from ecompile_workers.codegen.bundle import Bundle
from ecompile_workers.serving.modules import LoadedModule, ModuleStore, _proven_boxes, trusted_keys

from .world import KEY, OUTPUTS, World, make_world, oracle, rows, write_trust


def make_store(world: World) -> ModuleStore:
    plan = Plan.model_validate_json((world.directory / "plan.json").read_text())
    return ModuleStore(plan, lambda: (KEY.public_key(),))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "artifacts")


def test_loaded_module_answers_as_the_network(world: World) -> None:
    """After verification and warm-up."""
    module = make_store(world).load(world.route(RouteMode.COMPILED))
    x, y = rows(5), np.empty((5, OUTPUTS), dtype=np.float32)
    assert module.run(x, y) == 0
    np.testing.assert_allclose(y, oracle(x), atol=1e-5)


def test_same_digest_is_loaded_once_and_unloaded_after_its_last_user(world: World) -> None:
    """Two routes share a module; nothing keeps it when both are gone."""
    store = make_store(world)
    first, second = (store.load(world.route(RouteMode.COMPILED)) for _ in range(2))
    assert first is second
    finalizer = first.function._finalizer
    del first, second
    gc.collect()
    assert not finalizer.alive


@pytest.mark.parametrize(
    ("bundle", "code"),
    [
        ({"alter": True}, Code.BUNDLE_ALTERED),
        ({"key": Ed25519PrivateKey.generate()}, Code.BUNDLE_UNTRUSTED),
        ({"sourceDigest": f"sha256:{'b' * 64}"}, Code.BUNDLE_INCOMPATIBLE),
    ],
)
def test_bundle_that_must_not_be_used_is_refused(world: World, bundle: dict[str, object], code: Code) -> None:
    """Altered after signing, signed by a stranger, made for another network."""
    route = world.route(RouteMode.COMPILED, bundle=world.bundle(**bundle))  # type: ignore[arg-type]  # chosen by the case
    with pytest.raises(ModelError) as raised:
        make_store(world).load(route)
    assert raised.value.code is code


def test_bundle_of_another_segment_is_refused(tmp_path: Path) -> None:
    """Signed and whole, but not for this place."""
    world = make_world(tmp_path, segments=2)
    route = world.route(RouteMode.COMPILED, segment=1, bundle=world.bundle(segment=0))
    with pytest.raises(ModelError, match="segment 0"):
        make_store(world).load(route)


def test_missing_bundle_is_refused(world: World) -> None:
    """The sentence names the URI."""
    route = world.route(RouteMode.COMPILED, bundle=(world.uri("gone.eco"), f"sha256:{'0' * 64}"))
    with pytest.raises(EcompileError, match=r"gone\.eco"):
        make_store(world).load(route)


def test_trust_directory_without_a_key_is_refused(tmp_path: Path) -> None:
    """Nothing is loaded unverified."""
    with pytest.raises(ResourceError, match="no trusted key"):
        trusted_keys(tmp_path)
    write_trust(tmp_path)
    assert len(trusted_keys(tmp_path)) == 1


def test_inputs_in_a_region_of_the_certificate_are_proven() -> None:
    """All rows must be, each in any one of the regions; borders belong to them."""
    boxes = [{"lower": [0.0, 0.0], "upper": [1.0, 1.0]}, {"lower": [2.0, 0.0], "upper": [3.0, 1.0]}]
    files = {"certificate.json": orjson.dumps({"regions": [{"box": box} for box in boxes]})}
    found = _proven_boxes(Bundle(digest="", meta={}, files=files))
    module = SimpleNamespace(proven_boxes=found)
    inside = np.array([[0.5, 1.0], [2.0, 0.0]], dtype=np.float32)
    assert LoadedModule.proves(module, inside)  # type: ignore[arg-type]  # what is read of a module
    for row in ([1.5, 0.5], [0.5, np.nan], [0.5, 1.1]):
        assert not LoadedModule.proves(module, np.vstack([inside, np.float32(row)]))  # type: ignore[arg-type]  # as above
    assert _proven_boxes(Bundle(digest="", meta={}, files={})) is None
