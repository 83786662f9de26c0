"""Bundles: nothing that was changed after signing is ever opened."""

from __future__ import annotations

import io
import zipfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.errors import Code, EcompileError
from ecompile_workers.codegen.archive import ATTESTATION
from ecompile_workers.codegen.bundle import read_bundle, write_bundle
from ecompile_workers.codegen.compile import compile_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from .codegen.test_dense import LEVELS
from .networks import KEY, make_graph, wide_box

GRAPH = make_graph([4, 8, 2])
COMPILED = compile_graph(GRAPH, wide_box(4), levels=[LEVELS[0]], optimisation="O0")


def make_bundle() -> bytes:
    return write_bundle(graph=GRAPH, compiled=COMPILED, guard=wide_box(4), meta={"model": "net"}, key=KEY)


def test_round_trip_and_reproducible() -> None:
    content = make_bundle()
    assert content == make_bundle()
    bundle = read_bundle(content, [KEY.public_key()])
    assert bundle.load(LEVELS).outputs == 2
    assert bundle.graph().macs == GRAPH.macs


@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 0.999999), flip=st.integers(1, 255))
def test_any_changed_byte_is_refused_or_harmless(position: float, flip: int) -> None:
    """A flipped byte either is refused, or lies in a zip field that no content depends on."""
    content = bytearray(make_bundle())
    content[int(position * len(content))] ^= flip
    whole = read_bundle(make_bundle(), [KEY.public_key()])
    try:
        found = read_bundle(bytes(content), [KEY.public_key()])
    except EcompileError as error:
        assert error.code in (Code.BUNDLE_ALTERED, Code.BUNDLE_MALFORMED, Code.BUNDLE_UNTRUSTED)
    else:
        assert found.files == whole.files


def test_digest_disagreement_is_refused() -> None:
    with pytest.raises(EcompileError, match="digest"):
        read_bundle(make_bundle(), [KEY.public_key()], digest="sha256:" + "0" * 64)


def test_foreign_key_is_refused() -> None:
    with pytest.raises(EcompileError, match="trusted key") as caught:
        read_bundle(make_bundle(), [Ed25519PrivateKey.generate().public_key()])
    assert caught.value.code is Code.BUNDLE_UNTRUSTED


def rewrite(change: dict[str, bytes | None]) -> bytes:
    """The bundle with files replaced, added or (None) left out; the attestation as it was."""
    source = zipfile.ZipFile(io.BytesIO(make_bundle()))
    files: dict[str, bytes | None] = {name: source.read(name) for name in source.namelist()}
    files.update(change)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in files.items():
            if content is not None:
                target.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"meta.json": b"{}"}, "meta.json in the bundle is not what was signed"),
        ({"extra.txt": b"x"}, "extra.txt in the bundle is not what was signed"),
        ({"weights.bin": None}, "lacks weights.bin"),
        ({ATTESTATION: None}, "not a DSSE envelope"),
        ({"../evil": b"x"}, "points outside"),
    ],
)
def test_changed_contents_are_named(change: dict[str, bytes | None], text: str) -> None:
    with pytest.raises(EcompileError, match=text):
        read_bundle(rewrite(change), [KEY.public_key()])


@pytest.mark.parametrize("content", [b"", b"not a zip", make_bundle()[:200]])
def test_not_a_bundle(content: bytes) -> None:
    with pytest.raises(EcompileError) as caught:
        read_bundle(content, [KEY.public_key()])
    assert caught.value.code in (Code.BUNDLE_MALFORMED, Code.BUNDLE_UNTRUSTED)
