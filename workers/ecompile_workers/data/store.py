"""Files by URI through fsspec. Written to a temporary name, synced and renamed: complete or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import fsspec
from ecompile_crds.errors import Code, DataError, EcompileError, ResourceError

SCHEMES = ("file", "s3", "gs")


def _scheme(uri: str) -> str:
    scheme = urlparse(uri).scheme
    if scheme not in SCHEMES:
        raise DataError(
            Code.URI_UNSUPPORTED, f"{uri}: scheme {scheme or 'none'!r} is not supported; use {', '.join(SCHEMES)}."
        )
    return scheme


def _path(uri: str) -> Path:
    return Path(urlparse(uri).path)


def read(uri: str, *, digest: str | None = None, what: str = "file") -> bytes:
    """All bytes of a file; `what` names the field it came from.

    Raises DataError where it is missing or has another digest, ResourceError where the store cannot be reached.
    """
    try:
        if _scheme(uri) == "file":
            content = _path(uri).read_bytes()
        else:
            with fsspec.open(uri, "rb") as source:
                content = source.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(Code.DATA_MISSING, f"{what}: {uri} does not exist; put the file there.") from error
    except EcompileError:
        raise
    except (OSError, ImportError) as error:
        raise ResourceError(Code.STORAGE_UNAVAILABLE, f"{what}: {uri} cannot be read: {error}.") from error
    if digest is not None:
        actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if actual != digest:
            raise DataError(
                Code.DATA_DIGEST_MISMATCH,
                f"{what}: {uri} has digest {actual}, but {digest} is asked for; correct one of the two.",
            )
    return content


def write(uri: str, content: bytes) -> str:
    """Write a file whole; returns its digest.

    Raises ResourceError where there is no space or the store cannot be reached; the file is then as it was before.
    """
    try:
        if _scheme(uri) == "file":
            _write_local(_path(uri), content)
        else:
            with fsspec.open(uri, "wb") as target:
                target.write(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                Code.STORAGE_FULL, f"no space left for {uri} ({len(content)} bytes): enlarge the artifact volume."
            ) from error
        raise ResourceError(Code.STORAGE_UNAVAILABLE, f"{uri} cannot be written: {error}.") from error
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def join(base: str, *parts: str) -> str:
    """`base/part/part`."""
    return "/".join([base.rstrip("/"), *parts])
