"""A decision in the making. Steps of `decide` fill it in; nobody keeps one between calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from ecompile_crds.compiledmodule import CompiledModuleStatus, Stage
from ecompile_crds.hybridmodel import HybridModelSpec, LifeStatus

from .decision import DesiredJob, ModelEvent, NewModule
from .observed import Observed, ObservedModule


@dataclass
class Draft:
    """Observed world, time, and what has been decided so far."""

    observed: Observed
    spec: HybridModelSpec
    now: datetime
    life: LifeStatus
    serving: LifeStatus | None
    modules: dict[str, CompiledModuleStatus]
    """Status of each module by name, as decided so far."""
    jobs: list[DesiredJob] = field(default_factory=list)
    new_modules: list[NewModule] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)
    wakes: list[datetime] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is waited for, most important first; the first becomes `status.message`."""
    consulted: set[str] = field(default_factory=set)
    """Names of Jobs that this decision asked for; the others are history."""
    stalled: str = ""
    waits_for_slot: bool = False
    command_token: str = ""
    """Token of the command executed in this decision, for the audit log."""
    retry_jobs: bool = False
    """The command `retry` asks for failed Jobs to be tried again."""

    def stage(self, module: ObservedModule) -> Stage:
        """The stage as decided so far."""
        return self.modules[module.name].rollout.stage

    def of_life(self, life: str) -> list[ObservedModule]:
        """Modules of one life, by segment then name."""
        found = [m for m in self.observed.modules if m.spec.life == life]
        return sorted(found, key=lambda m: (m.spec.segment, m.name))
