"""Modules of this pod: fetched by digest, verified, loaded, warmed; only then may a request see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ecompile_crds.errors import Code, ModelError
from ecompile_crds.names import SIGNING_PUBLIC_KEY
from ecompile_crds.routing import SegmentRoute

from ..codegen.bundle import read_bundle
from ..codegen.levels import supported
from ..codegen.loader import CompiledFunction
from ..codegen.signing import load_public
from ..data import store


class ModuleStore:
    """Loaded modules by bundle digest. A module is unloaded when the last route that uses it is gone."""

    def __init__(self, *, trust: Path, resolve: Callable[[str], str] = lambda uri: uri) -> None:
        self._trust = trust
        self._resolve = resolve
        self._levels = supported(Path("/proc/cpuinfo").read_text())

    def load(self, route: SegmentRoute, *, inputs: int, outputs: int) -> CompiledFunction:
        """Load the module of a route.

        Raises EcompileError where it is missing, altered, untrusted, does not fit the segment, or fails its warm-up.
        """
        if route.bundle_uri is None or route.bundle_digest is None:
            raise ModelError(Code.BUNDLE_MALFORMED, f"segment {route.segment}: the route names no bundle.")
        content = store.read(self._resolve(route.bundle_uri), what="bundle")
        keys = (load_public((self._trust / SIGNING_PUBLIC_KEY).read_bytes()),)
        bundle = read_bundle(content, keys, digest=route.bundle_digest)
        module = bundle.load(self._levels)
        if (module.inputs, module.outputs) != (inputs, outputs):
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"segment {route.segment}: the module maps {module.inputs} to {module.outputs} values, "
                f"the segment {inputs} to {outputs}.",
            )
        guard = json.loads(bundle.files["meta.json"])["guard"]
        middle = (np.asarray(guard["lower"]) + np.asarray(guard["upper"])) / 2
        reason, _ = module(middle.astype(np.float32)[None])
        if reason != 0:
            raise ModelError(Code.BUNDLE_INCOMPATIBLE, f"segment {route.segment}: the module fails its warm-up.")
        return module
