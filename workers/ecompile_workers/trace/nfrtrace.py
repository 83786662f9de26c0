"""The `.nfrtrace` format: what layers of a network gave for sampled inputs. Writing and reading, both in a stream.

Layout, little-endian: magic `NFRTRACE2\\n`, header length (uint32), header (JSON), blocks. A block is a head (mark
`BLK\\n`, records, raw bytes, packed bytes, CRC-32 of the packed bytes) and a zstd frame of entries; the last one has
the mark `END\\n`, the number of all records and no content. An entry is its length in bytes as JSON (uint32), the
JSON, the values [rows, values] as float32, and the positions as int32 where it brings them.

Each block stands alone: a file whose writer died is read up to its last whole block, and says so.
Not here: where the values come from; `capture.py` runs our interpreter, `hooks.py` watches a live PyTorch model.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import zstandard
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

MAGIC = b"NFRTRACE2\n"
SCHEMA_VERSION = 2
COMPRESSION_LEVEL = 1
"""Activations hardly compress; higher levels of zstd cost three times the time for 2 % of the size."""
BLOCK_BYTES = 1 << 20
"""Raw bytes after which a block is written: what a crash can lose, and what a writer holds."""
MAX_BLOCK_BYTES = 1 << 28
"""A reader refuses larger blocks instead of filling the memory."""
MAX_HEADER_BYTES = 1 << 24
HEAD = struct.Struct("<4sQIII")
BLOCK, END = b"BLK\n", b"END\n"


class Kind(StrEnum):
    """What a record holds."""

    ACTIVATION = "activation"
    GRADIENT = "gradient"
    """Of the loss by the layer's output."""
    ATTENTION = "attention"
    """Weights [heads, queries, keys] after the softmax."""
    PROBABILITY = "probability"
    """Of the outputs, by softmax: all of them, or the largest in descending order."""
    TOKEN = "token"
    """Which outputs the largest probabilities belong to, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Values of one layer for some rows of one call."""

    layer: str
    kind: Kind = Kind.ACTIVATION
    fingerprints: tuple[str, ...]
    """Of each row: first 16 hex digits of the SHA-256 of the input row as float32."""
    shape: tuple[int, ...]
    """Of one row."""
    values: NDArray[np.float32]
    """[rows, values]: whole rows, or what is at `positions` of each."""
    positions: NDArray[np.int64] | None = None
    """Of the values in a flat row; None: all. The same in all entries of a layer and kind whose shape is the same."""
    time_ns: int | None = None
    """Since 1970, where the time of capture means something."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one layer gave for one input."""

    fingerprint: str
    layer: str
    kind: Kind
    shape: tuple[int, ...]
    values: NDArray[np.float32]
    """In the shape, or flat where `positions` says which values these are."""
    positions: NDArray[np.int64] | None
    time_ns: int | None


class Writer:
    """Streams entries into a file that is open for writing; memory is one block. Not for several threads at once."""

    def __init__(self, target: BinaryIO, header: dict[str, Any]) -> None:
        self._target = target
        self._raw = bytearray()
        self._block_records = 0
        self._placed: set[tuple[str, Kind, tuple[int, ...]]] = set()
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        self.records = 0
        text = json.dumps({"schemaVersion": SCHEMA_VERSION, **header}, sort_keys=True).encode()
        target.write(MAGIC + struct.pack("<I", len(text)) + text)
        target.flush()

    def add(self, entry: Entry) -> None:
        """Append an entry, in parts where it is larger than a block."""
        step = max(1, BLOCK_BYTES // max(1, 4 * entry.values.shape[1]))
        for start in range(0, len(entry.values), step):
            self._append(entry, slice(start, start + step))
            if len(self._raw) >= BLOCK_BYTES:
                self.flush()

    def _append(self, entry: Entry, rows: slice) -> None:
        values = np.ascontiguousarray(entry.values[rows], dtype="<f4")
        key = (entry.layer, entry.kind, entry.shape)
        told: dict[str, Any] = {
            "layer": entry.layer,
            "kind": entry.kind,
            "rows": entry.fingerprints[rows],
            "shape": entry.shape,
            "time": entry.time_ns,
        }
        tail = b""
        if entry.positions is not None:
            told["values"] = values.shape[1]
            if key not in self._placed:
                self._placed.add(key)
                told["placed"] = True
                tail = entry.positions.astype("<i4").tobytes()
        text = json.dumps(told).encode()
        self._raw += struct.pack("<I", len(text)) + text + values.tobytes() + tail
        self._block_records += len(values)

    def flush(self) -> None:
        """Hand what is there to the system as one block: it outlives this process."""
        if not self._raw:
            return
        packed = self._compressor.compress(self._raw)
        head = HEAD.pack(BLOCK, self._block_records, len(self._raw), len(packed), zlib.crc32(packed))
        self._target.write(head + packed)
        self._target.flush()
        self.records += self._block_records
        self._raw, self._block_records = bytearray(), 0

    def close(self) -> None:
        """Write what is left and the end mark; the file itself stays open."""
        self.flush()
        self._target.write(HEAD.pack(END, self.records, 0, 0, 0))
        self._target.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error without the end mark, so that a reader knows that something is missing."""
        if kind is None:
            self.close()
        else:
            self.flush()


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a block's content is."""

    offset: int
    raw_bytes: int
    packed_bytes: int


@dataclass(frozen=True, kw_only=True)
class Trace:
    """An opened file: the header, and what of it can be read."""

    header: dict[str, Any]
    record_count: int
    problem: str | None
    """Why the file is not complete, as a sentence; None where it is."""
    _source: BinaryIO = field(repr=False)
    _places: tuple[_Place, ...] = field(repr=False)

    def records(self) -> Iterator[Record]:
        """All readable records in the order of capture; one block in memory at a time.

        Raises DataError where a block's content makes no sense.
        """
        positions: dict[tuple[str, Kind, tuple[int, ...]], NDArray[np.int64]] = {}
        for place in self._places:
            self._source.seek(place.offset)
            try:
                raw = zstandard.ZstdDecompressor().decompress(
                    self._source.read(place.packed_bytes), max_output_size=place.raw_bytes
                )
                if len(raw) != place.raw_bytes:
                    raise ValueError("the content has another size than its head says")
                yield from _entries(raw, positions)
            except (ValueError, KeyError, TypeError, struct.error, zstandard.ZstdError) as error:
                raise DataError(
                    Code.DATA_MALFORMED, f"the .nfrtrace file is damaged at byte {place.offset}: {error}."
                ) from error


def open_trace(source: BinaryIO) -> Trace:
    """Open a seekable file: its header, and which of its blocks are whole; `source` must stay open while it is read.

    Raises DataError where the file is foreign or cut off in its header.
    """
    if source.read(len(MAGIC)) != MAGIC:
        raise DataError(Code.DATA_MALFORMED, "not a .nfrtrace file of this version: its first bytes are wrong.")
    try:
        (length,) = struct.unpack("<I", source.read(4))
        if length > MAX_HEADER_BYTES:
            raise ValueError("too long")
        header: dict[str, Any] = json.loads(source.read(length))
    except (struct.error, ValueError) as error:
        raise DataError(Code.DATA_MALFORMED, "the .nfrtrace file is cut off in its header.") from error
    places: list[_Place] = []
    records = 0
    while True:
        start = source.tell()
        head = source.read(HEAD.size)
        problem = None
        if len(head) < HEAD.size:
            problem = "ends without its end mark" if not head else "is cut off"
        else:
            mark, count, raw, packed, checksum = HEAD.unpack(head)
            if mark == END and count == records and not source.read(1):
                break
            if mark != BLOCK or max(raw, packed) > MAX_BLOCK_BYTES or zlib.crc32(source.read(packed)) != checksum:
                problem = "is cut off or damaged"
        if problem is not None:
            return Trace(
                header={**header, "recordCount": records},
                record_count=records,
                problem=f"the file {problem} at byte {start}; the {len(places)} whole blocks before it are read.",
                _source=source,
                _places=tuple(places),
            )
        places.append(_Place(offset=start + HEAD.size, raw_bytes=raw, packed_bytes=packed))
        records += count
    return Trace(
        header={**header, "recordCount": records},
        record_count=records,
        problem=None,
        _source=source,
        _places=tuple(places),
    )


def read(content: bytes) -> tuple[dict[str, Any], Iterator[Record]]:
    """Header and records of a complete file in memory.

    Raises DataError where the file is foreign or not complete.
    """
    found = open_trace(io.BytesIO(content))
    if found.problem is not None:
        raise DataError(Code.DATA_MALFORMED, f".nfrtrace: {found.problem}")
    return found.header, found.records()


def _entries(raw: bytes, known: dict[tuple[str, Kind, tuple[int, ...]], NDArray[np.int64]]) -> Iterator[Record]:
    """Records of one block; `known` remembers the positions that entries bring."""
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        told = json.loads(raw[at + 4 : at + 4 + length])
        at += 4 + length
        layer, kind, shape = str(told["layer"]), Kind(told["kind"]), tuple(int(n) for n in told["shape"])
        whole = "values" not in told
        count = int(np.prod(shape, dtype=np.int64)) if whole else int(told["values"])
        rows = len(told["rows"])
        values = np.frombuffer(raw, dtype="<f4", count=rows * count, offset=at).reshape(rows, count)
        at += 4 * rows * count
        if told.get("placed"):
            known[layer, kind, shape] = np.frombuffer(raw, dtype="<i4", count=count, offset=at).astype(np.int64)
            at += 4 * count
        positions = None if whole else known[layer, kind, shape]
        for fingerprint, row in zip(told["rows"], values, strict=True):
            yield Record(
                fingerprint=fingerprint,
                layer=layer,
                kind=kind,
                shape=shape,
                values=(row.reshape(shape) if whole else row).astype(np.float32),
                positions=positions,
                time_ns=told["time"],
            )
