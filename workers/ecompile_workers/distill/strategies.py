"""All strategies by name, in the order in which they are asked: cheap ones first."""

from __future__ import annotations

from ecompile_crds.hybridmodel import Strategy

from .deadunits import dead_units
from .exact import exact
from .fold import fold
from .lowrank import low_rank
from .regions import regions
from .strategy import StrategyFunction
from .symbolic.strategy import symbolic

STRATEGIES: dict[Strategy, StrategyFunction] = {
    Strategy.EXACT: exact,
    Strategy.FOLD: fold,
    Strategy.DEADUNITS: dead_units,
    Strategy.LOWRANK: low_rank,
    Strategy.REGIONS: regions,
    Strategy.SYMBOLIC: symbolic,
}
