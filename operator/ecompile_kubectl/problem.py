"""What goes wrong at the command line: one sentence and an exit status."""

from __future__ import annotations


class Problem(Exception):
    """Ends the command with a sentence on stderr."""

    def __init__(self, sentence: str, *, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status
