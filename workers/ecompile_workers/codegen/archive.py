"""Signed zips: equal files give equal bytes, and nothing in one is used before all of it has been checked."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from ecompile_crds.errors import Code, ModelError

from . import signing

CHECKSUMS = "SHA256SUMS"
ATTESTATION = "attestation.dsse.json"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip can have; all entries have it."""


def sealed(files: Mapping[str, bytes], predicate: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A zip of `files` with their checksums and a signed statement about them. `.eco` files are zips already."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    entries = {
        **files,
        CHECKSUMS: "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode(),
        ATTESTATION: signing.sign(sums, predicate, key),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".eco") else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, entries[name])
    return buffer.getvalue()


def unpacked(content: bytes, *, name: str, max_bytes: int, max_files: int) -> dict[str, bytes]:
    """All files of a zip, none checked yet.

    Raises ModelError where it is not a zip that `sealed` could have written; `name` is the sentence's subject.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) != len(names) or len(names) > max_files:
                raise ModelError(Code.BUNDLE_MALFORMED, f"{name} has duplicate or too many entries.")
            if any(each.startswith("/") or ".." in each.split("/") for each in names):
                raise ModelError(Code.BUNDLE_MALFORMED, f"{name} has an entry that points outside of it.")
            if sum(entry.file_size for entry in entries) > max_bytes:
                raise ModelError(Code.BUNDLE_MALFORMED, f"{name} unpacks to more than {max_bytes >> 30} GiB.")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelError(Code.BUNDLE_MALFORMED, f"{name} is not a readable zip file: {error}.") from error


def checked(files: Mapping[str, bytes], keys: Sequence[Ed25519PublicKey], *, name: str) -> dict[str, bytes]:
    """The files that a trusted key has signed: exactly those in the zip, each as it was.

    Raises ModelError otherwise; `name` is the sentence's subject.
    """
    statement = signing.verify(files.get(ATTESTATION, b""), keys)
    content = {each: value for each, value in files.items() if each not in (ATTESTATION, CHECKSUMS)}
    signed = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    for each in sorted(signed.keys() | content.keys()):
        if each not in content:
            raise ModelError(Code.BUNDLE_ALTERED, f"{name} lacks {each}, which was signed.")
        if signed.get(each) != hashlib.sha256(content[each]).hexdigest():
            raise ModelError(Code.BUNDLE_ALTERED, f"{each} in {name} is not what was signed.")
    return content
