"""Arrays from `.npz` files. No pickle."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

INPUT_NAMES = ("inputs", "x", "X", "calibration", "x_train", "X_train", "train", "data")
"""Arrays looked for, in this order, where the URI names none (`...npz#name`)."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Inputs, and labels where the file has them."""

    inputs: NDArray[np.float32]
    """[rows, features]"""
    labels: NDArray[Any] | None = None


def parse(content: bytes, *, name: str, shape: tuple[int, ...], array: str | None = None) -> Rows:
    """Rows for a network whose input has `shape` (without batch); `name` says which field or file they are from.

    Raises DataError naming the file and the array, saying what is wrong.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise DataError(Code.DATA_MALFORMED, f"{name}: not a readable .npz file: {error}.") from error
    found = array or next((key for key in INPUT_NAMES if key in arrays), None)
    if found is None or found not in arrays:
        raise DataError(
            Code.DATA_MALFORMED,
            f"{name}: no array named {found or 'inputs'}; it has {', '.join(sorted(arrays)) or 'none'}. "
            "Name the array inputs, or add #name to the URI.",
        )
    values = arrays[found]
    where = f"{name}, array {found}"
    size = int(np.prod(shape, dtype=np.int64))
    if values.dtype.kind not in "fiu":
        raise DataError(Code.DATA_MALFORMED, f"{where}: type {values.dtype} is not numeric.")
    if values.ndim < 1 or values.shape[0] == 0:
        raise DataError(Code.DATA_EMPTY, f"{where}: it has no rows; at least one is needed.")
    if int(np.prod(values.shape[1:], dtype=np.int64)) != size:
        raise DataError(Code.DATA_SHAPE, f"{where}: rows have shape {values.shape[1:]}, but the network takes {shape}.")
    rows = np.ascontiguousarray(values.reshape(values.shape[0], size), dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(Code.DATA_NOT_FINITE, f"{where}: row {bad} has a value that is not finite; remove such rows.")
    labels = next((arrays[k] for k in ("labels", "y") if k in arrays and len(arrays[k]) == len(rows)), None)
    return Rows(inputs=rows, labels=labels)
