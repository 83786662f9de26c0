"""Load checked bytes as code: the bytes that were verified are the bytes that run (memfd), nothing touches the disk."""

from __future__ import annotations

import _ctypes
import ctypes
import json
import os
import weakref

import numpy as np
from ecompile_crds.errors import Code, ModelError

from ..ir.graph import Array
from ._native import Module
from .abi import ABI_VERSION, Reason

RELEASE_MACS = 200_000
"""Work above which giving up the interpreter lock (about 0.2 us) is worth it for other threads."""


class CompiledFunction:
    """A loaded module. Safe to call from several threads; unloaded when the last reference is gone."""

    def __init__(self, library: bytes, *, macs: int) -> None:
        # The descriptor stays open while the library is loaded: the dynamic linker knows a library by its path, and a
        # number used again would name the one loaded before.
        descriptor = os.memfd_create("ecompile-module", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(library)
            handle = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        except OSError as error:
            os.close(descriptor)
            raise ModelError(Code.BUNDLE_MALFORMED, f"the module's library cannot be loaded: {error}.") from error
        self._finalizer = weakref.finalize(self, _unload, handle._handle, descriptor)
        describe = handle.eco_meta
        describe.restype = ctypes.c_char_p
        meta = json.loads(describe())
        if meta["abi"] != ABI_VERSION:
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"the module has ABI {meta['abi']}, this program {ABI_VERSION}; compile it again.",
            )
        self.inputs: int = meta["inputs"]
        self.outputs: int = meta["outputs"]
        self.level: str = meta["level"]
        address = ctypes.cast(handle.eco_run, ctypes.c_void_p).value
        assert address is not None
        release_rows = max(2, RELEASE_MACS // max(1, macs))
        self.run = Module(address, self.inputs, self.outputs, meta["max_rows"], meta["scratch_bytes"], release_rows).run
        """run(x, y) -> reason: float32 buffers of rows; 0 where y was written (METH_FASTCALL)."""

    def __call__(self, x: Array) -> tuple[Reason, Array]:
        """Run rows `x` [rows, inputs] float32; returns (reason, y [rows, outputs])."""
        rows = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, self.inputs)
        y = np.empty((rows.shape[0], self.outputs), dtype=np.float32)
        return Reason(self.run(rows, y)), y


def _unload(handle: int, descriptor: int) -> None:
    _ctypes.dlclose(handle)
    os.close(descriptor)
