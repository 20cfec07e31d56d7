"""PURE: where a throughput curve stops paying, told by several methods, of which one decides.

The smallest level with 95 % of the plateau was the only rule of seven that was right on workers, one worker, batching
and lock contention alike. The others are shown beside it: power (X/R) is the latency's own answer, the bounds' crossing
is what concurrency limiters chase, and the Universal Scalability Law (Gunther, arXiv 0808.1431) explains a curve that
bends back.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

PLATEAU_SHARE = 0.95


class Point(NamedTuple):
    """A level: `callers` in flight give `rate` answers a second, each after `time_s` on average."""

    callers: int
    rate: float
    time_s: float


class Usl(NamedTuple):
    """X(N) = a N / (1 + s (N-1) + k N (N-1)): s is the serial share, k the loss by coherence; `r2` how well it fits."""

    a: float
    s: float
    k: float
    r2: float


class Knee(NamedTuple):
    """`throughput` decides; `latency` is where X/R is largest; `crossing` is the plateau times the time at the lowest
    level."""

    throughput: int
    latency: int
    crossing: float
    plateau: float
    usl: Usl | None


def find_knee(points: Sequence[Point]) -> Knee:
    """Of at least one point, ascending by callers."""
    best = sorted((point.rate for point in points), reverse=True)[:2]
    plateau = math.fsum(best) / len(best)
    first = points[0]
    return Knee(
        throughput=next(point.callers for point in points if point.rate >= PLATEAU_SHARE * plateau),
        latency=max(points, key=lambda point: point.rate / point.time_s if point.time_s else 0.0).callers,
        crossing=plateau * first.time_s,
        plateau=plateau,
        usl=fit_usl(points),
    )


def bracket(points: Sequence[Point]) -> tuple[int, int]:
    """The last level below the knee (0: none) and the knee: what lies between has not been measured."""
    knee = find_knee(points).throughput
    return max((point.callers for point in points if point.callers < knee), default=0), knee


def fit_usl(points: Sequence[Point]) -> Usl | None:
    """By least squares of N/X, which is linear in N-1 and N(N-1), with relative weights and s, k of at least 0; None
    for fewer than four points or where nothing was answered."""
    if len(points) < 4 or not all(point.rate > 0 for point in points):
        return None
    rows = [(point.callers - 1, point.callers * (point.callers - 1), point.callers / point.rate) for point in points]
    candidates = [_fit(rows, use) for use in ((True, True), (True, False), (False, True), (False, False))]
    fits = [fit for fit in candidates if fit is not None and fit[0] > 0 and fit[1] >= 0 and fit[2] >= 0]
    if not fits:
        return None
    c, d, e = min(fits, key=lambda fit: _misfit(rows, fit))
    mean = math.fsum(point.rate for point in points) / len(points)
    model = [
        point.callers / (c + d * (point.callers - 1) + e * point.callers * (point.callers - 1)) for point in points
    ]
    rest = math.fsum((point.rate - rate) ** 2 for point, rate in zip(points, model, strict=True))
    total = math.fsum((point.rate - mean) ** 2 for point in points)
    return Usl(1 / c, d / c, e / c, 1 - rest / total if total else 1.0)


_Row = tuple[float, float, float]


def _misfit(rows: Sequence[_Row], fit: tuple[float, float, float]) -> float:
    return math.fsum(((fit[0] + fit[1] * u + fit[2] * v - y) / y) ** 2 for u, v, y in rows)


def _fit(rows: Sequence[_Row], use: tuple[bool, bool]) -> tuple[float, float, float] | None:
    """c + d u + e v = y with weights 1/y^2; what `use` leaves out is 0. None where the equations have no one
    solution."""
    columns = [[1 / y for _, _, y in rows]]
    columns += [[row[number] / row[2] for row in rows] for number in range(2) if use[number]]
    size = len(columns)
    matrix = [
        [*(math.fsum(a * b for a, b in zip(one, other, strict=True)) for other in columns), math.fsum(one)]
        for one in columns
    ]
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(matrix[row][at]))
        matrix[at], matrix[pivot] = matrix[pivot], matrix[at]
        if abs(matrix[at][at]) < 1e-12:
            return None
        for row in range(size):
            if row != at:
                factor = matrix[row][at] / matrix[at][at]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[at], strict=True)]
    found = iter(matrix[at][size] / matrix[at][at] for at in range(size))
    c = next(found)
    d = next(found) if use[0] else 0.0
    return c, d, next(found) if use[1] else 0.0
