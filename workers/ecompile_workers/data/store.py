"""Files by URI through fsspec. Written to a temporary name, synced and renamed: complete or not there.

Object stores (s3, gs) show an object only once all of it has arrived, so one upload per file is atomic there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlparse

import fsspec
from ecompile_crds.errors import Code, DataError, EcompileError, ResourceError

SCHEMES = ("file", "s3", "gs")
FULL = (errno.ENOSPC, errno.EDQUOT)
"""System errors that mean: no space left on the device, or none left in the quota."""


def digest_of(content: bytes) -> str:
    """`sha256:` and hex."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def join(base: str, *parts: str) -> str:
    """`base/part/part`."""
    return "/".join([base.rstrip("/"), *parts])


def read(uri: str, *, digest: str | None = None, what: str = "file") -> bytes:
    """All bytes of a file; `what` names the field it came from.

    Raises DataError where it is missing or has another digest, ResourceError where the store cannot be reached.
    """
    scheme = _scheme(uri)
    try:
        content = _path(uri).read_bytes() if scheme == "file" else _read_remote(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(Code.DATA_MISSING, f"{what}: {uri} does not exist; put the file there.") from error
    except OSError as error:
        raise ResourceError(Code.STORAGE_UNAVAILABLE, f"{what}: {uri} cannot be read: {error}.") from error
    if digest is not None and digest_of(content) != digest:
        raise DataError(
            Code.DATA_DIGEST_MISMATCH,
            f"{what}: {uri} has digest {digest_of(content)}, but {digest} is asked for; correct one of the two.",
        )
    return content


def write(uri: str, content: bytes) -> str:
    """Write a file whole; returns its digest.

    Raises ResourceError where there is no space or the store cannot be reached; the file is then as it was before.
    """
    scheme = _scheme(uri)
    try:
        if scheme == "file":
            write_file(_path(uri), content)
        else:
            _write_remote(uri, content)
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(
                Code.STORAGE_FULL, f"no space left for {uri} ({len(content)} bytes): enlarge the artifact volume."
            ) from error
        raise ResourceError(Code.STORAGE_UNAVAILABLE, f"{uri} cannot be written: {error}.") from error
    return digest_of(content)


def _scheme(uri: str) -> str:
    parsed = urlparse(uri)
    if parsed.scheme not in SCHEMES:
        found = repr(parsed.scheme or "none")
        raise DataError(Code.URI_UNSUPPORTED, f"{uri}: scheme {found} is not supported; use {', '.join(SCHEMES)}.")
    if parsed.scheme == "file" and parsed.netloc:
        raise DataError(
            Code.URI_UNSUPPORTED,
            f"{uri}: {parsed.netloc!r} stands where a host would; write three slashes, as in file:///artifacts/x.",
        )
    return parsed.scheme


def _path(uri: str) -> Path:
    return Path(urlparse(uri).path)


def write_file(path: Path, content: bytes) -> None:
    """Write a file of this machine whole. Raises OSError; the file is then as it was before."""
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
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    """Make the rename itself last; some file systems of networks cannot, and need not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _read_remote(uri: str) -> bytes:
    try:
        system, path = fsspec.core.url_to_fs(uri)
        content: bytes = system.cat_file(path)
    except (OSError, EcompileError):
        raise
    except Exception as error:
        # Drivers of fsspec raise what their libraries raise, and those errors have no base in common.
        _unavailable(uri, error)
    return content


def _write_remote(uri: str, content: bytes) -> None:
    try:
        system, path = fsspec.core.url_to_fs(uri)
        system.pipe_file(path, content)
    except (OSError, EcompileError):
        raise
    except Exception as error:
        # As for reading.
        _unavailable(uri, error)


def _unavailable(uri: str, error: Exception) -> NoReturn:
    raise ResourceError(
        Code.STORAGE_UNAVAILABLE, f"{uri} cannot be reached ({type(error).__name__}): {str(error).rstrip('.')}."
    ) from error
