"""The file format: what is written is read, however the writer or the file ended."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import Code, DataError
from ecompile_workers.trace import nfrtrace
from ecompile_workers.trace.capture import capture
from ecompile_workers.trace.nfrtrace import Entry, Kind, Writer, open_trace
from ecompile_workers.trace.sampling import Gaps, fingerprint, positions
from hypothesis import given, settings
from hypothesis import strategies as st

from ..networks import make_graph


def entry(layer: str, values: np.ndarray, **changes: object) -> Entry:
    told = {
        "layer": layer,
        "fingerprints": tuple(f"{i:016x}" for i in range(len(values))),
        "shape": values.shape[1:],
        "values": values.astype(np.float32),
        **changes,
    }
    return Entry(**told)  # type: ignore[arg-type]  # a test's own keywords


def blocks_of(count: int) -> bytes:
    """A file with `count` blocks of one record each."""
    target = io.BytesIO()
    with Writer(target, {"seed": 0}) as writer:
        for index in range(count):
            writer.add(entry("a", np.full((1, 8), index)))
            writer.flush()
    return target.getvalue()


def test_what_is_written_is_read() -> None:
    target = io.BytesIO()
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    with Writer(target, {"seed": 7}) as writer:
        writer.add(entry("a", values, shape=(2, 3), time_ns=5))
        writer.add(entry("b", values[:, [1, 4]], shape=(6,), positions=np.array([1, 4]), kind=Kind.GRADIENT))
        writer.add(entry("b", values[:, [1, 4]], shape=(6,), positions=np.array([1, 4]), kind=Kind.GRADIENT))
    header, records = nfrtrace.read(target.getvalue())
    found = list(records)
    assert header["seed"] == 7 and header["recordCount"] == len(found) == 6
    assert found[1].values.tolist() == [[6, 7, 8], [9, 10, 11]] and found[1].time_ns == 5
    assert found[5].kind is Kind.GRADIENT and found[5].shape == (6,)
    assert found[5].positions is not None and found[5].positions.tolist() == [1, 4]
    assert found[5].values.tolist() == [7, 10]


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.data())
def test_truncated_file_is_read_up_to_its_last_whole_block(data: st.DataObject) -> None:
    whole = blocks_of(5)
    start = len(blocks_of(0)) - nfrtrace.HEAD.size
    cut = data.draw(st.integers(start, len(whole) - 1))
    found = open_trace(io.BytesIO(whole[:cut]))
    assert found.problem is not None and f"the {found.record_count} whole blocks" in found.problem
    values = [record.values[0] for record in found.records()]
    assert values == list(range(found.record_count))
    with pytest.raises(DataError, match="whole blocks before it are read"):
        nfrtrace.read(whole[:cut])


def test_file_of_a_writer_that_failed_says_so() -> None:
    target = io.BytesIO()
    with pytest.raises(RuntimeError), Writer(target, {}) as writer:
        writer.add(entry("a", np.ones((3, 2))))
        raise RuntimeError("the disk is gone")
    found = open_trace(io.BytesIO(target.getvalue()))
    assert found.problem is not None and "without its end mark" in found.problem
    assert len(list(found.records())) == 3


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(st.data())
def test_flipped_byte_is_never_read_as_data(data: st.DataObject) -> None:
    content = bytearray(blocks_of(3))
    expected = list(range(3))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = open_trace(io.BytesIO(bytes(content)))
        values = [float(record.values[0]) for record in found.records()]
    except DataError as error:
        assert error.code is Code.DATA_MALFORMED
        return
    assert values == expected[: len(values)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", nfrtrace.MAGIC, nfrtrace.MAGIC + b"\xff\xff\xff\xff{}"])
def test_foreign_files_are_refused(content: bytes) -> None:
    with pytest.raises(DataError):
        open_trace(io.BytesIO(content))


def test_large_entries_are_written_in_parts_of_a_block() -> None:
    target = io.BytesIO()
    with Writer(target, {}) as writer:
        writer.add(entry("a", np.random.default_rng(0).normal(size=(64, 1 << 16))))
    found = open_trace(io.BytesIO(target.getvalue()))
    assert len(found._places) >= 16
    assert max(place.raw_bytes for place in found._places) <= 2 * nfrtrace.BLOCK_BYTES
    assert found.record_count == len(list(found.records())) == 64


def test_capture_of_a_graph_is_repeatable_and_samples_large_layers(tmp_path: Path) -> None:
    graph = make_graph([16, 64, 4])
    rows = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    contents = []
    for _ in range(2):
        target = io.BytesIO()
        count = capture(graph, rows, target, model_digest="sha256:0", rate=0.5, seed=3, max_values=10)
        contents.append(target.getvalue())
    assert contents[0] == contents[1]
    header, records = nfrtrace.read(contents[0])
    found = list(records)
    assert len(found) == count == header["recordCount"] and header["layers"] == ["z0", "a0", "z1"]
    first = next(r for r in found if r.layer == "z0")
    assert first.positions is not None and len(first.values) == 10
    row = next(row for row in rows if fingerprint(row) == first.fingerprint)
    exact = row.astype(np.float64) @ graph.nodes[0].constants["weight"] + graph.nodes[0].constants["bias"]
    np.testing.assert_allclose(first.values, exact[first.positions], rtol=1e-5)


def test_gaps_have_the_rate() -> None:
    gaps = Gaps(0.01, 0)
    drawn = [gaps.draw() for _ in range(4000)]
    assert min(drawn) >= 1 and abs(np.mean(drawn) - 100) < 5


def test_positions_are_drawn_once_per_layer() -> None:
    first = positions("a", 1000, limit=10, seed=0)
    assert first is not None and np.array_equal(first, positions("a", 1000, limit=10, seed=0))
    assert not np.array_equal(first, positions("b", 1000, limit=10, seed=0))
    assert positions("a", 10, limit=10, seed=0) is None
