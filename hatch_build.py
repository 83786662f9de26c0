"""Build hook: compiles the one extension module into the package. Used by wheels and editable installs alike."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("workers/ecompile_workers/codegen/native.c")
TARGET = Path("workers/ecompile_workers/codegen/_native.abi3.so")


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # generic only in stubs
    """Runs the C compiler."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling that the wheel is not pure."""
        root = Path(self.root)
        target = root / TARGET
        command = ["gcc", "-O2", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"]
        command += [f"-I{sysconfig.get_path('include')}", str(root / SOURCE), "-o", f"{target}.partial"]
        subprocess.run(command, check=True)
        Path(f"{target}.partial").replace(target)
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(str(TARGET))
