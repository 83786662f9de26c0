"""Grams of CO2 equivalent per kilowatt-hour, by country. Yearly means of generation, life cycle: not what the grid
does this minute, and without the share of making the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ecompile_crds.errors import Code, DataError

JOULES_PER_KWH: Final = 3.6e6
UNCERTAINTY: Final = 0.15
"""Relative: years and sources differ by this much."""
GRAMS_PER_KWH: Final[Mapping[str, float]] = {
    "AU": 549,
    "BR": 98,
    "CA": 171,
    "CN": 582,
    "DE": 381,
    "ES": 174,
    "FR": 56,
    "GB": 238,
    "IE": 291,
    "IN": 713,
    "IT": 331,
    "JP": 485,
    "KR": 431,
    "NL": 268,
    "NO": 30,
    "PL": 662,
    "SE": 41,
    "SG": 471,
    "US": 369,
    "WORLD": 481,
    "ZA": 708,
}
"""About 2023, after Ember, "Yearly electricity data"; rounded, and not checked against later editions: where the figure
counts, give the number of your grid instead."""


def intensity(region: str) -> float:
    """Grams per kWh of a country (ISO 3166 alpha-2, or WORLD), or the number that is written instead of one.

    Raises DataError where it is neither.
    """
    known = GRAMS_PER_KWH.get(region.strip().upper())
    if known is not None:
        return known
    try:
        value = float(region)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 5000:
        raise DataError(
            Code.SPEC_INVALID,
            f"carbon region {region[:40]!r} is not known; use one of {', '.join(GRAMS_PER_KWH)}, or grams of CO2e per "
            "kWh as a number from 0 to 5000.",
        )
    return value


def grams(joules: float, region: str) -> float:
    """CO2 equivalent of so many joules.

    Raises DataError as `intensity` does.
    """
    return joules / JOULES_PER_KWH * intensity(region)
