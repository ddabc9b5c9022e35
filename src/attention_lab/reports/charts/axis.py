"""The axes of charts: ranges of values, places within them, and round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attention_lab.reports.metrics import bounds_of, is_rate

#: The smallest span of an axis, as a share of its greatest value.
MIN_SPAN = 0.05


@dataclass(frozen=True)
class Axis:
    """A range of values, drawn from 0 at its low end to 1 at its high end."""

    low: float
    high: float
    is_logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is on the axis: from 0 to 1 within the range."""
        if self.is_logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def contains(self, value: float) -> bool:
        """Whether a value is within the range."""
        return self.low <= value <= self.high

    def clip(self, value: float) -> float:
        """A value, or the end of the range that it is beyond."""
        return min(max(value, self.low), self.high)

    def ticks(self, most: int, *, integer: bool = False) -> list[float]:
        """Round values in the range, about ``most`` of them.

        >>> Axis(0, 11).ticks(5), Axis(9, 80, is_logarithmic=True).ticks(6)
        ([0.0, 2.5, 5.0, 7.5, 10.0], [10.0, 15.0, 20.0, 30.0, 50.0, 70.0])
        """
        if self.is_logarithmic:
            return self._logarithmic_ticks(most)
        least = max((self.high - self.low) / most, 1.0 if integer else 0.0)
        size = 10.0 ** math.floor(math.log10(least))
        steps = [size * factor for factor in (1, 2, 2.5, 5, 10)]
        step = next(s for s in steps if s > 0.999 * least and not (integer and s % 1))
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [step * index for index in range(first, last + 1)]

    def _logarithmic_ticks(self, most: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
        for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [10.0**decade * factor for decade in decades for factor in factors]
            kept = [tick for tick in ticks if self.contains(tick)]
            if len(kept) <= most:
                break
        return kept[:: math.ceil(len(kept) / most) or 1]


def scale(metric: str) -> float:
    """The factor from values of a metric to the chart: rates are drawn in percent."""
    return 100.0 if is_rate(metric) else 1.0


def clip_to_bounds(
    metric: str, low: float, high: float, values: Sequence[float] = ()
) -> tuple[float, float]:
    """A range, in units of the chart, clipped to the values that a metric can have.

    No rate is below 0 %, and no accuracy above 100 %. An error rate can exceed 100 %, so its range
    is clipped at 100 % only if none of the ``values`` is greater. Nor does a bound clip the range
    if a value is beyond it: a custom task may compute its accuracy in percent.
    """
    if not is_rate(metric):
        return low, high
    is_open = math.isinf(bounds_of(metric)[1]) and not (values and max(values) <= 100)
    return max(low, min([0.0, *values])), high if is_open else min(high, max([100.0, *values]))


def range_of(values: Sequence[float], metric: str) -> tuple[float, float]:
    """A range with a margin around values of a metric, in units of the chart.

    It has a minimum span, for a rate of at least one point, so that charts do not magnify noise.
    """
    low, high = min(values), max(values)
    least = max(MIN_SPAN * max(abs(low), abs(high)), 1.0 if is_rate(metric) else 0.0) or 1.0
    margin = max(0.05 * (high - low), (least - (high - low)) / 2)
    return clip_to_bounds(metric, low - margin, high + margin, values)
