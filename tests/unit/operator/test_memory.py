"""Memory given back."""

from __future__ import annotations

import platform

from ecompile_operator.memory import trim


def test_free_pages_are_returned_where_the_c_library_can() -> None:
    assert trim() is (platform.libc_ver()[0] == "glibc")
