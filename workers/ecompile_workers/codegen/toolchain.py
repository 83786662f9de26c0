"""The C compiler, as a function from source to shared library. Deterministic: no paths, dates or build ids go in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ecompile_crds.errors import Code, ResourceError

from .c_printer import Printed
from .kernels.prelude import WEIGHTS_FILE
from .levels import Level

OPTIMISATIONS = ("O0", "O2", "O3")
TIMEOUT_SECONDS = 300
COMMON_FLAGS = (
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-nostdlib",
    "-ffreestanding",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wno-psabi",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,relro,-z,now",
)


def compiler() -> str:
    """Path of the compiler: CC, else gcc, else clang.

    Raises ResourceError (COMPILER_MISSING).
    """
    for name in (os.environ.get("CC"), "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    raise ResourceError(Code.COMPILER_MISSING, "no C compiler found: install gcc or clang, or set CC.")


def version() -> str:
    """First line of what the compiler says of itself; part of a bundle's provenance."""
    answer = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0] if answer.stdout else "unknown"


def build(printed: Printed, level: Level, *, optimisation: str = "O3") -> bytes:
    """The shared library.

    Raises ResourceError where the compiler is missing, fails, is killed or finds no space.
    """
    if optimisation not in OPTIMISATIONS:
        raise ValueError(f"optimisation must be one of {OPTIMISATIONS}")
    try:
        with tempfile.TemporaryDirectory(prefix="ecompile-") as name:
            directory = Path(name)
            (directory / "module.c").write_text(printed.source)
            (directory / WEIGHTS_FILE).write_bytes(printed.weights)
            command = [compiler(), *COMMON_FLAGS, *level.flags, f"-{optimisation}", "module.c", "-o", "module.so"]
            command += ["-lgcc"]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
            if done.returncode != 0:
                raise _failure(done.returncode, done.stderr)
            return (directory / "module.so").read_bytes()
    except subprocess.TimeoutExpired as error:
        raise ResourceError(Code.COMPILER_FAILED, f"the C compiler took longer than {TIMEOUT_SECONDS} s.") from error
    except OSError as error:
        raise ResourceError(
            Code.STORAGE_FULL, f"the compiler's scratch space in {tempfile.gettempdir()} failed: {error.strerror}."
        ) from error


def _failure(status: int, text: str) -> ResourceError:
    if "No space left" in text:
        return ResourceError(Code.STORAGE_FULL, f"no space left in {tempfile.gettempdir()} for the compiler.")
    if status < 0:
        return ResourceError(Code.OUT_OF_MEMORY, f"the C compiler was killed by signal {-status}, likely for memory.")
    return ResourceError(Code.COMPILER_FAILED, f"the C compiler failed: {text.strip()[:500]}")
