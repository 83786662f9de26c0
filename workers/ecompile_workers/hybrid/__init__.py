"""A network and its modules as one file: made, checked and run without a cluster, by the code of the Jobs."""

from .compiler import compile
from .package import Package, read_package
from .session import HybridSession

__all__ = ["HybridSession", "Package", "compile", "read_package"]
