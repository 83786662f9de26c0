"""How many rollouts run at a time, over all models: all that a decision about one model needs to know of others.

In memory, rebuilt from the cache at the start. A model holds a slot from the moment it is decided, not from when the
write comes back, so that two decisions never take the last one.
"""

from __future__ import annotations

from ecompile_crds.compiledmodule import Stage

from .decide.decision import Decision
from .decide.observed import Fleet, Observed
from .kube.kinds import COMPILEDMODULE
from .observe.cache import Cache, ModelKey

ROLLING = frozenset({Stage.SHADOW, Stage.CANARY})


class RolloutSlots:
    """Who rolls out, and who waits to."""

    def __init__(self, cache: Cache, *, limit: int, limit_per_namespace: int) -> None:
        self._cache = cache
        self._limit = limit
        self._limit_per_namespace = limit_per_namespace
        self._rolling: set[ModelKey] | None = None
        self._waiting: dict[ModelKey, None] = {}
        """In the order in which they began to wait."""

    def fleet(self, key: ModelKey) -> Fleet:
        """What a decision about `key` is told of the others."""
        if not self._limit and not self._limit_per_namespace:
            return Fleet()
        others = self._known() - {key}
        return Fleet(
            rollouts=len(others),
            rollouts_in_namespace=sum(1 for namespace, _ in others if namespace == key[0]),
            limit=self._limit,
            limit_per_namespace=self._limit_per_namespace,
        )

    def decided(self, observed: Observed, decision: Decision) -> tuple[ModelKey, ...]:
        """Note what was decided. Returns models to decide on again because a slot has become free."""
        key = (observed.namespace, observed.name)
        stages = {m.name: m.status.rollout.stage for m in observed.modules}
        stages |= {u.name: u.status.rollout.stage for u in decision.module_updates}
        if decision.waits_for_slot:
            self._waiting.setdefault(key)
        else:
            self._waiting.pop(key, None)
        if any(stage in ROLLING for stage in stages.values()):
            self._known().add(key)
            return ()
        return self._free(key)

    def forget(self, key: ModelKey) -> tuple[ModelKey, ...]:
        """The model is gone."""
        self._waiting.pop(key, None)
        return self._free(key)

    def _free(self, key: ModelKey) -> tuple[ModelKey, ...]:
        if key not in self._known():
            return ()
        self._known().discard(key)
        return tuple(self._waiting)

    def _known(self) -> set[ModelKey]:
        if self._rolling is None:
            self._rolling = {key for key in self._cache.models if self._rolls(key)}
        return self._rolling

    def _rolls(self, key: ModelKey) -> bool:
        phases = (m.get("status", {}).get("phase") for m in self._cache.children(COMPILEDMODULE.kind, key))
        return any(phase in {stage.value for stage in ROLLING} for phase in phases)
