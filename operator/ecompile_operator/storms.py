"""Rollbacks of many models at once: a cause that they share, to be handled as one.

Rolling back is never held up. What waits is what would meet the same cause again: new rollouts and revalidations. In
memory; at the start rebuilt from what modules recorded of their last rollback.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from ecompile_crds.compiledmodule import RollbackStatus
from pydantic import ValidationError

from .decide.clock import from_text
from .decide.decision import Decision
from .decide.observed import Storm
from .kube.kinds import COMPILEDMODULE
from .observe.cache import Cache, ModelKey

BY_HAND = frozenset({"Manual", "Aborted"})


class Storms:
    """Newest rollback of each model within the window."""

    def __init__(self, cache: Cache, *, models: int, seconds: int) -> None:
        self._cache = cache
        self._models = models
        self._seconds = seconds
        self._newest: dict[ModelKey, tuple[datetime, str]] | None = None

    def decided(self, key: ModelKey, decision: Decision) -> None:
        """Note rollbacks among what was decided."""
        for update in decision.module_updates:
            if update.status.last_rollback is not None:
                self._note(self._known(), key, update.status.last_rollback)

    def now(self, now: datetime) -> Storm | None:
        """The storm there is, if any."""
        if not self._models:
            return None
        window = timedelta(seconds=self._seconds)
        known = self._known()
        for key in [key for key, (at, _) in known.items() if at + window <= now]:
            del known[key]
        if len(known) < self._models:
            return None
        reasons = Counter(reason for _, reason in known.values())
        reason = min(reasons, key=lambda r: (-reasons[r], r))
        ends = sorted(at + window for at, _ in known.values())
        return Storm(
            models=len(known),
            reason=reason,
            window_seconds=self._seconds,
            until=ends[len(known) - self._models],
        )

    def _known(self) -> dict[ModelKey, tuple[datetime, str]]:
        if self._newest is None:
            self._newest = {}
            for key in self._cache.models:
                for module in self._cache.children(COMPILEDMODULE.kind, key):
                    recorded = module.get("status", {}).get("lastRollback")
                    try:
                        rollback = RollbackStatus.model_validate(recorded) if recorded else None
                    except ValidationError:
                        continue
                    if rollback is not None:
                        self._note(self._newest, key, rollback)
        return self._newest

    @staticmethod
    def _note(known: dict[ModelKey, tuple[datetime, str]], key: ModelKey, rollback: RollbackStatus) -> None:
        at = from_text(rollback.at)
        if at is None or rollback.reason in BY_HAND:
            return
        if key not in known or known[key][0] < at:
            known[key] = (at, rollback.reason)
