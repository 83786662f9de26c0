"""The C compiler, as a function from source to shared library. Deterministic: no paths, dates or build ids go in."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ecompile_crds.errors import Code, ResourceError

from .c_printer import Printed
from .kernels.prelude import WEIGHTS_FILE
from .levels import Level

OPTIMISATIONS = ("O0", "O2", "O3")
TIMEOUT_SECONDS = 300
C_FLAGS = (
    "-std=gnu11",
    "-nostdlib",
    "-ffreestanding",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wno-psabi",
)
SHARED_LIBRARY = (
    "-fPIC",
    "-shared",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,relro,-z,now",
)
WEB_ASSEMBLY = ("-fno-sanitize=all", "-Wl,--no-entry", "-Wl,--export=eco_run", "-Wl,--export=eco_meta")
CROSS_COMPILER = "ziglang"
"""A package with one C compiler for many machines; docs/decisions/ says why it does not compile for this one."""


def compiler() -> list[str]:
    """Command of the compiler for this machine: CC, else clang, else gcc.

    Raises ResourceError (COMPILER_MISSING).
    """
    for name in (os.environ.get("CC"), "clang", "gcc"):
        words = shlex.split(name) if name else []
        found = shutil.which(words[0]) if words else None
        if found is not None:
            return [found, *words[1:]]
    raise ResourceError(Code.COMPILER_MISSING, "no C compiler found: install clang or gcc, or set CC.")


def version() -> str:
    """First line of what the compiler says of itself; part of a bundle's provenance."""
    answer = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0] if answer.stdout else "unknown"


def has_cross_compiler() -> bool:
    """Whether levels of other machines can be compiled here."""
    return importlib.util.find_spec(CROSS_COMPILER) is not None


def native_command(level: Level) -> list[str]:
    """The compiler of this machine, told about the level.

    Raises ResourceError (COMPILER_MISSING).
    """
    return [*compiler(), *level.flags]


def cross_command(level: Level) -> list[str]:
    """The compiler for any machine, told about the level.

    Raises ResourceError (COMPILER_MISSING).
    """
    if not has_cross_compiler():
        raise ResourceError(
            Code.COMPILER_MISSING,
            f"compiling for {level.name} on {platform.machine()} needs the Python package {CROSS_COMPILER}; install it "
            f"or leave {level.name} out of the targets.",
        )
    return [sys.executable, "-m", CROSS_COMPILER, "cc", *level.cross, "-g0", "-Wl,-s", "-Wno-c23-extensions"]


def build(printed: Printed, level: Level, *, optimisation: str = "O3", command: Sequence[str] | None = None) -> bytes:
    """The shared library, or for wasm32 the module. `command`: a compiler other than the one for that machine.

    Raises ResourceError where the compiler is missing, fails, is killed or finds no space.
    """
    if optimisation not in OPTIMISATIONS:
        raise ValueError(f"optimisation must be one of {OPTIMISATIONS}")
    linking = WEB_ASSEMBLY if level.machine == "wasm32" else SHARED_LIBRARY
    if command is None:
        command = native_command(level) if level.machine == platform.machine() else cross_command(level)
    words = [*C_FLAGS, *linking, f"-{optimisation}", "module.c", "-o", "module.so"]
    try:
        with tempfile.TemporaryDirectory(prefix="ecompile-") as name:
            directory = Path(name)
            (directory / "module.c").write_text(printed.source)
            (directory / WEIGHTS_FILE).write_bytes(printed.weights)
            done = subprocess.run(
                [*command, *words],
                cwd=directory,
                env={**os.environ, "ZIG_LOCAL_CACHE_DIR": f"{name}/local", "ZIG_GLOBAL_CACHE_DIR": f"{name}/global"},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
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
