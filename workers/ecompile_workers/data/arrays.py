"""Arrays from `.npz` files. No pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

CALIBRATION_NAMES = ("inputs", "input", "x", "X", "calibration", "calib", "x_train", "X_train", "train", "data")
"""Arrays looked for, in this order, where the URI names none (`...npz#name`)."""
ELEMENT_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
}
"""Inputs of networks, as ONNX Runtime names their types. Rows are float32, which holds numbers of words exactly."""
GROUPS_NAME = "groups"
LABEL_NAMES = ("labels", "y", "y_train", "y_test")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Inputs, and labels where the file has them."""

    inputs: NDArray[np.float32]
    """[rows, features]"""
    labels: NDArray[Any] | None = None
    groups: NDArray[np.str_] | None = None
    """[rows] group of each row."""


def parse(
    content: bytes,
    *,
    name: str,
    shape: tuple[int, ...],
    array: str | None = None,
    names: Sequence[str] = CALIBRATION_NAMES,
) -> Rows:
    """Rows for a network whose input has `shape` (without batch); `name` says which field or file they are from.

    `array` picks one array of the file; otherwise the first of `names` that is there, or the only one.
    Raises DataError naming the file and the array, saying what is wrong.
    """
    if content.startswith(b"\x93NUMPY"):
        raise DataError(Code.DATA_MALFORMED, f"{name}: this is a .npy file; save it with numpy.savez(..., inputs=...).")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            found = array or _pick(archive.files, names)
            if found is None or found not in archive.files:
                raise DataError(
                    Code.DATA_MALFORMED,
                    f"{name}: no array named {found or 'inputs'}; "
                    f"it has {', '.join(sorted(archive.files)) or 'none'}. "
                    "Name the array inputs, or add #name to the URI.",
                )
            values = archive[found]
            labels, groups = _labels(archive, values), _groups(archive, values, name=name)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        raise DataError(Code.DATA_MALFORMED, f"{name}: not a readable .npz file: {error}.") from error
    return Rows(inputs=_checked(values, where=f"{name}, array {found}", shape=shape), labels=labels, groups=groups)


def row_type(
    content: bytes, *, name: str, array: str | None = None, names: Sequence[str] = CALIBRATION_NAMES
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape of a row and element type of the array that `parse` would take, for networks whose input is not known.

    Raises DataError where the file has no such array.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            found = array or _pick(archive.files, names)
            if found is not None and found in archive.files and archive[found].ndim >= 1:
                return archive[found].shape[1:], archive[found].dtype
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        raise DataError(Code.DATA_MALFORMED, f"{name}: not a readable .npz file: {error}.") from error
    raise DataError(Code.DATA_MALFORMED, f"{name}: it has no array of rows; name it inputs, or add #name to the path.")


def _pick(present: Sequence[str], names: Sequence[str]) -> str | None:
    found = next((key for key in names if key in present), None)
    return present[0] if found is None and len(present) == 1 else found


def _labels(archive: Any, values: NDArray[Any]) -> NDArray[Any] | None:
    for key in LABEL_NAMES:
        if key in archive.files:
            labels: NDArray[Any] = archive[key]
            if values.ndim and labels.ndim and len(labels) == len(values):
                return labels
    return None


def _groups(archive: Any, values: NDArray[Any], *, name: str) -> NDArray[np.str_] | None:
    if GROUPS_NAME not in archive.files:
        return None
    groups = archive[GROUPS_NAME]
    if groups.ndim != 1 or not values.ndim or len(groups) != len(values) or groups.dtype.kind not in "UiuSb":
        raise DataError(
            Code.DATA_SHAPE,
            f"{name}, array {GROUPS_NAME}: it must name the group of each of the {len(values) if values.ndim else 0} "
            f"rows, as text or whole numbers; it has type {groups.dtype} and shape {groups.shape}.",
        )
    found: NDArray[np.str_] = groups.astype(np.str_)
    return found


def _checked(values: NDArray[Any], *, where: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    size = int(np.prod(shape, dtype=np.int64))
    if values.dtype.kind not in "fiu":
        raise DataError(Code.DATA_MALFORMED, f"{where}: type {values.dtype} is not numeric.")
    if values.ndim < 1 or values.shape[0] == 0:
        raise DataError(Code.DATA_EMPTY, f"{where}: it has no rows; at least one is needed.")
    if int(np.prod(values.shape[1:], dtype=np.int64)) != size:
        raise DataError(Code.DATA_SHAPE, f"{where}: rows have shape {values.shape[1:]}, but the network takes {shape}.")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(values.reshape(values.shape[0], size), dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise DataError(
            Code.DATA_NOT_FINITE, f"{where}: row {bad} has a value that is not finite in float32; remove such rows."
        )
    if len(rows) > 1 and bool((rows == rows[0]).all()):
        raise DataError(
            Code.DATA_MALFORMED, f"{where}: all {len(rows)} rows are the same; rows from real use are needed."
        )
    return rows
