"""The ranges of numbers that a user gives, and their check.

The range of a flag stands in its annotation: `depth: Depth = 3`, where
`Depth = Annotated[int, Range(1, 128)]`. `flags.py` checks it and shows it in --help.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple


class Range(NamedTuple):
    """The numbers from `low` to `high`, both included unless `open_low`."""

    low: float
    high: float
    open_low: bool = False

    def __contains__(self, value: Any) -> bool:
        # NaN compares false, so it is in no range.
        return (self.low < value if self.open_low else self.low <= value) and (
            value <= self.high
        )

    def __str__(self) -> str:
        """As in mathematics: [1, 128], (0, 1]."""
        low, high = (f"{bound:.10g}" for bound in (self.low, self.high))
        return f"{'(' if self.open_low else '['}{low}, {high}]"


# JAX counts in int32, and seeds in uint32.
Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Depth = Annotated[int, Range(1, 128)]
Width = Annotated[int, Range(8, 16384)]
VocabSize = Annotated[int, Range(2, 2**20)]
SequenceLength = Annotated[int, Range(2, 2**20)]
GrayLevels = Annotated[int, Range(2, 256)]
ImageSize = Annotated[int, Range(1, 4096)]
PatchSize = Annotated[int, Range(1, 1024)]
LearningRate = Annotated[float, Range(0, 10, open_low=True)]
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, open_low=True)]
Scale = Annotated[float, Range(0, 1000)]
PositiveScale = Annotated[float, Range(0, 1000, open_low=True)]


def at_least(name: str, value: Any, minimum: Any) -> Any:
    """`value`, or ValueError where it is less than `minimum`."""
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    return value
