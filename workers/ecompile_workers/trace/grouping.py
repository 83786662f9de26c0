"""Groups of units that behave alike: DBSCAN or k-means over (stability, impact). They prove nothing."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN, KMeans

DBSCAN_EPS = 0.05
DBSCAN_MIN_SAMPLES = 5
CLUSTERS = 8
"""Of k-means; fewer where there are fewer different points."""
MERGE_COVERAGE = 0.80
"""A group that another one covers by more than this share is part of it."""
MAX_POINTS = 4096
"""More units are put on a grid first: DBSCAN keeps all neighbours of all points, 130 MB for as many as this."""
GRID = 0.01
"""Width of a cell, a fifth of DBSCAN's radius."""
TINY = 1e-12

Points = NDArray[np.float64]


class Method(StrEnum):
    """How groups are found."""

    DBSCAN = "dbscan"
    KMEANS = "k-means"


def points(stability: Points, impact: Points) -> Points:
    """[units, 2]: stability cut off at -1 and 1, impact as a share of the largest."""
    largest = float(impact.max(initial=0.0))
    return np.stack([np.clip(stability, -1.0, 1.0), impact / max(largest, TINY)], axis=1)


def grouped(
    stability: Points, impact: Points, layer: NDArray[np.int64], *, method: Method, seed: int
) -> list[NDArray[np.int64]]:
    """Groups of indices, ascending each, the largest group first.

    Groups are sought in the whole network and in each layer by itself; those that others cover are merged into them.
    """
    if not len(stability):
        return []
    place = points(stability, impact)
    found = _clusters(place, np.arange(len(place)), method, seed)
    for each in np.unique(layer):
        found += _clusters(place, np.flatnonzero(layer == each), method, seed)
    return merged(found, len(place))


def merged(groups: list[NDArray[np.int64]], count: int) -> list[NDArray[np.int64]]:
    """Join groups of indices below `count` until none covers more than 80 % of another one."""
    waiting = sorted((np.unique(g) for g in groups), key=lambda g: (-len(g), g.tolist()))
    kept: list[NDArray[np.int64]] = []
    while waiting:
        group = waiting.pop(0)
        inside = np.zeros(count, dtype=bool)
        inside[group] = True
        for index, other in enumerate(kept):
            shared = int(inside[other].sum())
            if shared > MERGE_COVERAGE * min(len(group), len(other)):
                union = np.union1d(group, other)
                kept.pop(index)
                if len(union) == len(other):
                    kept.append(other)
                else:  # it has grown, so it may cover others now
                    waiting.append(union)
                break
        else:
            kept.append(group)
    return sorted(kept, key=lambda g: (-len(g), g.tolist()))


def _clusters(place: Points, chosen: NDArray[np.int64], method: Method, seed: int) -> list[NDArray[np.int64]]:
    """Clusters of some of the points, as indices into all of them."""
    if len(chosen) < DBSCAN_MIN_SAMPLES:
        return []
    sites, member, weights = _sites(place[chosen])
    match method:
        case Method.DBSCAN:
            found = DBSCAN(eps=DBSCAN_EPS, min_samples=DBSCAN_MIN_SAMPLES).fit(sites, sample_weight=weights)
        case Method.KMEANS:
            count = min(CLUSTERS, len(np.unique(sites, axis=0)))
            found = KMeans(n_clusters=count, n_init=4, random_state=seed).fit(sites, sample_weight=weights)
    labels = np.asarray(found.labels_)[member]
    return [chosen[labels == label] for label in np.unique(labels) if label >= 0]


def _sites(place: Points) -> tuple[Points, NDArray[np.int64], Points]:
    """Places to cluster, which of them each point is at, and how many points are there."""
    if len(place) <= MAX_POINTS:
        return place, np.arange(len(place)), np.ones(len(place))
    cells, member, counts = np.unique(np.round(place / GRID), axis=0, return_inverse=True, return_counts=True)
    return cells * GRID, member.reshape(-1), counts.astype(np.float64)
