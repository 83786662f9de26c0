"""Arrays from `.npz` files. No pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

CALIBRATION_NAMES = ("inputs", "input", "x", "X", "calibration", "calib", "x_train", "X_train", "train", "data")
"""Arrays looked for, in this order, where the URI names none (`...npz#name`)."""
HELD_OUT_NAMES = (
    *("held_out", "heldout", "heldOut", "x_test", "X_test", "test", "test_inputs"),
    *("x_val", "X_val", "val", "validation", "x_valid", "X_valid"),
)
"""Arrays looked for first where rows that distillation has not seen are wanted: a file may hold both."""
Parts = Mapping[str, tuple[int, ...]]
"""Inputs of a network that has several: name and shape (without batch), in order."""
ELEMENT_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
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
    parts: Parts = MappingProxyType({}),
    names: Sequence[str] = CALIBRATION_NAMES,
) -> Rows:
    """Rows for a network whose input has `shape` (without batch); `name` says which field or file they are from.

    `array` picks one array of the file; otherwise the first of `names` that is there, or the only one. Where
    the network has several inputs, `parts`, the file has an array for each of them, by its name; or one of whole rows.
    Raises DataError naming the file and the array, saying what is wrong.
    """
    if content.startswith(b"\x93NUMPY"):
        raise DataError(Code.DATA_MALFORMED, f"{name}: this is a .npy file; save it with numpy.savez(..., inputs=...).")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if array is None and any(part in archive.files for part in parts):
                columns = {part: archive[part] for part in parts if part in archive.files}
                together = _checked(side_by_side(columns, parts, name=name), where=name)
                labels, groups = _labels(archive, together), _groups(archive, together, name=name)
                return Rows(inputs=together, labels=labels, groups=groups)
            found = array or pick(archive.files, names)
            if found is None or found not in archive.files:
                raise DataError(
                    Code.DATA_MALFORMED,
                    f"{name}: no array named {found or 'inputs'}; "
                    f"it has {', '.join(sorted(archive.files)) or 'none'}. "
                    + (
                        f"The network takes {', '.join(parts)}: give an array for each."
                        if parts
                        else "Name the array inputs, or add #name to the URI."
                    ),
                )
            values = archive[found]
            labels, groups = _labels(archive, values), _groups(archive, values, name=name)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        raise DataError(Code.DATA_MALFORMED, f"{name}: not a readable .npz file: {error}.") from error
    size = int(np.prod(shape, dtype=np.int64))
    where = f"{name}, array {found}"
    if parts and int(np.prod(values.shape[1:], dtype=np.int64)) != size:
        raise DataError(
            Code.DATA_SHAPE,
            f"{name}: the network takes {', '.join(f'{part} {wanted}' for part, wanted in parts.items())} per row: "
            f"give an array for each, or one of whole rows with {size} features.",
        )
    rows = _checked(_rows(values, where=where, shape=shape, size=size), where=where)
    return Rows(inputs=rows, labels=labels, groups=groups)


def side_by_side(columns: Mapping[str, NDArray[Any]], parts: Parts, *, name: str) -> NDArray[np.float32]:
    """One row [rows, features] of all inputs of a network, from an array [rows, ...] for each.

    Raises DataError naming the array that is missing or does not fit.
    """
    missing = [part for part in parts if part not in columns]
    if missing:
        raise DataError(
            Code.DATA_MALFORMED, f"{name}: no array named {missing[0]}; the network takes {', '.join(parts)}."
        )
    counts = {part: len(values) if values.ndim else 0 for part, values in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{part} has {count}" for part, count in counts.items())
        raise DataError(Code.DATA_SHAPE, f"{name}: all arrays need the same number of rows, but {told}.")
    flat = []
    for part, shape in parts.items():
        size = int(np.prod(shape, dtype=np.int64))
        values = columns[part].astype(np.float32) if columns[part].dtype == np.bool_ else columns[part]
        flat.append(_rows(values, where=f"{name}, array {part}", shape=shape, size=size))
    return np.concatenate(flat, axis=1)


def feeds(sources: Sequence[Any], rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Rows [rows, features] as the inputs of an ONNX Runtime session, `sources` (`get_inputs()`), contiguous."""
    found, start = {}, 0
    for source in sources:
        shape = tuple(int(extent) for extent in source.shape[1:])
        stop = start + int(np.prod(shape, dtype=np.int64))
        part = rows if len(sources) == 1 else rows[:, start:stop]
        found[source.name] = np.ascontiguousarray(part, dtype=ELEMENT_TYPES[source.type]).reshape(len(rows), *shape)
        start = stop
    return found


def gathered(outputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Outputs of an ONNX Runtime session as rows [rows, features]."""
    flat = [each.reshape(len(each), -1) for each in outputs]
    return np.asarray(flat[0]) if len(flat) == 1 else np.concatenate(flat, axis=1)


def row_type(content: bytes, *, name: str, array: str | None = None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape of a row and element type of the array that `parse` would take, for networks whose input is not known.

    Raises DataError where the file has no such array.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            found = array or pick(archive.files)
            if found is not None and found in archive.files and archive[found].ndim >= 1:
                return archive[found].shape[1:], archive[found].dtype
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        raise DataError(Code.DATA_MALFORMED, f"{name}: not a readable .npz file: {error}.") from error
    raise DataError(Code.DATA_MALFORMED, f"{name}: it has no array of rows; name it inputs, or add #name to the path.")


def pick(present: Sequence[str], names: Sequence[str] = CALIBRATION_NAMES) -> str | None:
    """The array of rows among those of a file; None where none is called so, and there are several."""
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


def _rows(values: NDArray[Any], *, where: str, shape: tuple[int, ...], size: int) -> NDArray[np.float32]:
    """[rows, size] float32."""
    if values.dtype.kind not in "fiu":
        raise DataError(Code.DATA_MALFORMED, f"{where}: type {values.dtype} is not numeric.")
    if values.ndim < 1 or values.shape[0] == 0:
        raise DataError(Code.DATA_EMPTY, f"{where}: it has no rows; at least one is needed.")
    if int(np.prod(values.shape[1:], dtype=np.int64)) != size:
        raise DataError(Code.DATA_SHAPE, f"{where}: rows have shape {values.shape[1:]}, but the network takes {shape}.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.reshape(values.shape[0], size), dtype=np.float32)


def _checked(rows: NDArray[np.float32], *, where: str) -> NDArray[np.float32]:
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
