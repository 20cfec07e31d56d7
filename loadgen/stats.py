"""PURE: whether a measurement stands still, and curves that are known to rise."""

import math
from collections.abc import Sequence

# Student's t at 95 %, two-sided, by degrees of freedom; beyond the table the normal distribution is near enough.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_T_LARGE = 1.96
_WINDOWS = 4
# A drift below this over all windows looked at changes no decision, however significant it is.
_DRIFT = 0.03


def mean(values: Sequence[float]) -> float:
    """0 for none."""
    return math.fsum(values) / len(values) if values else 0.0


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation, of a sample; 0 for fewer than two or a mean of 0."""
    middle = mean(values)
    if len(values) < 2 or not middle:
        return 0.0
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)) / middle


def is_steady(counts: Sequence[float], bound: float) -> bool:
    """Whether the last four windows' counts vary by less than `bound`, or by no more than whole requests explain: a
    window that ends just before an answer has one less."""
    last = counts[-_WINDOWS:]
    return len(last) == _WINDOWS and mean(last) > 0 and variation(last) <= max(bound, 1.0 / mean(last))


def is_drifting(values: Sequence[float]) -> bool:
    """Whether a line through the last eight values (at least four) rises or falls beyond its 95 % bound, and by more
    than 3 % from end to end. A queue that grows shows so, where each window alone looks quiet."""
    last = values[-2 * _WINDOWS :]
    count = len(last)
    if count < _WINDOWS or not mean(last):
        return False
    middle = (count - 1) / 2
    spread = math.fsum((n - middle) ** 2 for n in range(count))
    slope = math.fsum((n - middle) * value for n, value in enumerate(last)) / spread
    level = mean(last)
    rest = math.fsum((value - level - slope * (n - middle)) ** 2 for n, value in enumerate(last))
    error = math.sqrt(rest / (count - 2) / spread)
    bound = _T[count - 3] if count - 3 < len(_T) else _T_LARGE
    return abs(slope) > bound * error and abs(slope) * (count - 1) > _DRIFT * level


def rising(values: Sequence[float]) -> list[float]:
    """The closest non-decreasing sequence by least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        block = (value, 1)
        while blocks and blocks[-1][0] > block[0]:
            before, size = blocks.pop()
            size_both = size + block[1]
            block = ((before * size + block[0] * block[1]) / size_both, size_both)
        blocks.append(block)
    return [value for value, size in blocks for _ in range(size)]


def relative_half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean, relative to it; 0 for fewer than two values."""
    if len(values) < 2 or not mean(values):
        return 0.0
    freedom = len(values) - 1
    bound = _T[freedom - 1] if freedom <= len(_T) else _T_LARGE
    return bound * variation(values) / math.sqrt(len(values))
