"""The `.nfrtrace` format: a JSON header, then a zstd stream of records. Streams in both directions.

Layout: magic `NFRTRACE1\\n`, header length (uint32, little-endian), header (JSON), zstd frame of records. A record is a
JSON line (fingerprint, layer, shape) followed by float32 values, little-endian.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import zstandard
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

from ..ir.graph import Graph, Node
from ..ir.interpreter import Values, run

MAGIC = b"NFRTRACE1\n"
SCHEMA_VERSION = 1
COMPRESSION_LEVEL = 3
BLOCK_ROWS = 256
"""Rows in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Activations of one layer for one input."""

    fingerprint: str
    """First 16 hex digits of the SHA-256 of the input row."""
    layer: str
    values: NDArray[np.float32]


def capture(
    graph: Graph, inputs: NDArray[np.float32], target: BinaryIO, *, model_digest: str, rate: float, seed: int
) -> int:
    """Record a sampled share of the rows through the reference interpreter; returns the number of records.

    `graph` must have no opaque node.
    """
    chosen = np.flatnonzero(np.random.default_rng(seed).random(len(inputs)) < rate)
    header = {
        "schemaVersion": SCHEMA_VERSION,
        "modelDigest": model_digest,
        "input": {"name": graph.input.name, "shape": list(graph.input.shape), "dtype": "float32"},
        "layers": [n.output.name for n in graph.nodes],
        "seed": seed,
        "rate": rate,
        "hardware": platform.machine(),
        "recordCount": int(len(chosen) * len(graph.nodes)),
    }
    text = json.dumps(header, sort_keys=True).encode()
    target.write(MAGIC + struct.pack("<I", len(text)) + text)
    with zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).stream_writer(target, closefd=False) as stream:
        for start in range(0, len(chosen), BLOCK_ROWS):
            block = inputs[chosen[start : start + BLOCK_ROWS]]
            prints = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in block]

            def visit(node: Node, values: Values, prints: list[str] = prints) -> None:
                for fingerprint, row in zip(prints, values, strict=True):
                    entry = {"fingerprint": fingerprint, "layer": node.output.name, "shape": list(row.shape)}
                    stream.write(json.dumps(entry).encode() + b"\n" + row.astype("<f4").tobytes())

            run(graph, block, visit=visit)
    return int(len(chosen) * len(graph.nodes))


def read(content: bytes) -> tuple[dict[str, Any], Iterator[Record]]:
    """Header and records.

    Raises DataError where the file is foreign or cut off.
    """
    source = io.BytesIO(content)
    if source.read(len(MAGIC)) != MAGIC:
        raise DataError(Code.DATA_MALFORMED, "not a .nfrtrace file: its first bytes are wrong.")
    try:
        (length,) = struct.unpack("<I", source.read(4))
        header: dict[str, Any] = json.loads(source.read(length))
    except (struct.error, ValueError) as error:
        raise DataError(Code.DATA_MALFORMED, "the .nfrtrace file is cut off in its header.") from error
    return header, _records(source, header["recordCount"])


def _records(source: BinaryIO, count: int) -> Iterator[Record]:
    reader = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(source))
    for _ in range(count):
        try:
            entry = json.loads(reader.readline())
            raw = reader.read(4 * int(np.prod(entry["shape"], dtype=np.int64)))
            values = np.frombuffer(raw, dtype="<f4").reshape(entry["shape"]).astype(np.float32)
        except (ValueError, zstandard.ZstdError) as error:
            raise DataError(Code.DATA_MALFORMED, "the .nfrtrace file is cut off or damaged.") from error
        yield Record(fingerprint=entry["fingerprint"], layer=entry["layer"], values=values)
