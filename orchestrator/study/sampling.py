"""Samples of a search: the ranges of the sampled keys, and the values drawn from them.

A value depends on its key, the sample's number and the seed of the search only. Therefore all rows
get the same samples, and more samples or more keys leave the others as they are (random search,
Bergstra and Bengio, JMLR 2012).
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

#: The maximum number of samples of a row.
MAX_SAMPLES = 1000
_LARGEST = 2**53  # whole numbers up to it are exact as floating-point numbers
_DIGITS = 3  # significant digits of a value, or of the range of a uniform one

#: A row of the table, in a cell of the grid: the variant, and the axes' values as text.
CellName = tuple[str, ...]


@dataclass(frozen=True)
class RangeConfig:
    """The values that a key is sampled from: exactly one of these keys.

    log: lowest and highest value, both above 0; the logarithm is uniform.
    uniform: lowest and highest value.
    integer: lowest and highest whole number, both included.
    choice: list of values.
    """

    __pydantic_config__ = {"extra": "forbid"}

    log: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        given = [entry.name for entry in fields(self) if getattr(self, entry.name) is not None]
        if len(given) != 1:
            names = ", ".join(entry.name for entry in fields(self))
            received = " and ".join(given) or "none of them"
            raise ValueError(f"set one of {names}, received {received}")
        bounds = self.bounds
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} must be a lower and a higher value, received {bounds}")
        if bounds is not None and max(map(abs, bounds)) > _LARGEST:
            raise ValueError(f"{given[0]} must be within ±{_LARGEST:g}")
        if self.log is not None and self.log[0] <= 0:
            raise ValueError(f"log must be above 0, received {list(self.log)}")
        if self.choice is not None:
            texts = [repr(value) for value in self.choice]
            if len(set(texts)) < max(2, len(texts)):
                raise ValueError(
                    f"choice must have two or more different values, received {list(self.choice)}"
                )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None for a choice."""
        return self.log or self.uniform or self.integer

    @property
    def is_continuous(self) -> bool:
        """Whether the values are numbers of which any may be drawn."""
        return self.log is not None or self.uniform is not None

    def at(self, quantile: float) -> Any:
        """Return the value at a quantile in [0, 1) of the distribution."""
        if self.choice is not None:
            return self.choice[int(quantile * len(self.choice))]
        if self.integer is not None:
            lowest, highest = self.integer
            return lowest + int(quantile * (highest - lowest + 1))
        if self.log is not None:
            low, high = map(math.log, self.log)
            return self.rounded(math.exp(low + quantile * (high - low)))
        assert self.uniform is not None
        low, high = self.uniform
        return self.rounded(low + quantile * (high - low))

    def rounded(self, value: float) -> float:
        """Return a value of a continuous range with few digits, as people write it."""
        assert self.bounds is not None
        low, high = self.bounds
        if self.log is not None:
            value = float(f"{value:.{_DIGITS}g}")
        else:
            value = round(value, _DIGITS - 1 - math.floor(math.log10(high - low)))
        return min(max(value, low), high)

    def position(self, value: Any) -> int | None:
        """Return the index of a value among the choices; None if it is none of them. False is not
        0, and 1.0 is not 1, also in lists and mappings."""
        texts = [json.dumps(one, sort_keys=True) for one in self.choice or ()]
        text = json.dumps(value, sort_keys=True)
        return texts.index(text) if text in texts else None

    def contains(self, value: Any) -> bool:
        """Whether a sample may have this value."""
        if self.choice is not None:
            return self.position(value) is not None
        assert self.bounds is not None
        low, high = self.bounds
        kind = int if self.integer is not None else int | float
        return isinstance(value, kind) and low <= value <= high


@dataclass(frozen=True)
class SamplesConfig:
    """How the samples of a search are drawn.

    count: number of samples of each row, in each cell of the grid.
    method: `random`, or `tpe`, which draws later samples near the best earlier ones of the same row
        and cell (tree-structured Parzen estimator of Optuna; Bergstra et al., NeurIPS 2011).
    metric: score on the validation split by which samples are compared: `miou`, another one of each
        evaluation, such as `dice` or `iou/CLASS`, or the key of a metric in `evaluation.metrics`.
    seed: of the search; another seed draws other samples.
    startup: number of random samples before the first one by `tpe`.
    round: number of samples of each row that `tpe` draws at a time, from the scores of all earlier
        ones.
    """

    __pydantic_config__ = {"extra": "forbid"}

    count: int
    method: Literal["random", "tpe"] = "random"
    metric: str = "miou"
    seed: int = 0
    startup: int = 8
    round: int = 4

    def __post_init__(self) -> None:
        for name in ("count", "startup", "round"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.count > MAX_SAMPLES:
            raise ValueError(f"count must be at most {MAX_SAMPLES}, received {self.count}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, received {self.seed}")

    @property
    def random_count(self) -> int:
        """The number of samples that do not depend on scores."""
        return self.count if self.method == "random" else min(self.startup, self.count)


@dataclass(frozen=True)
class SearchSample:
    """One sample of a search: its number, from 0, and the value of each sampled key."""

    number: int
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The sample's part of a trial's name."""
        return f"sample {self.number}"


def random_sample(ranges: Mapping[str, RangeConfig], number: int, seed: int) -> SearchSample:
    """Return the random sample with this number. seed: of the search."""
    values = {key: each.at(keyed_quantile(seed, number, key)) for key, each in ranges.items()}
    return SearchSample(number, values)


def value_text(value: Any) -> str:
    """Return a sampled value as text; of a mapping, such as an optimizer, its name and its other
    values."""
    if isinstance(value, dict):
        others = ", ".join(f"{k} {value_text(v)}" for k, v in _leaves(value) if k != "name")
        name = str(value.get("name", ""))
        return f"{name} ({others})".strip() if others else name or "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def range_text(limits: RangeConfig) -> str:
    """Return a range as text, such as `log [0.001, 1]`."""
    kind, values = next(
        (entry.name, getattr(limits, entry.name))
        for entry in fields(limits)
        if getattr(limits, entry.name) is not None
    )
    return f"{kind} {value_text(list(values))}"


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield key, value


def keyed_quantile(seed: int, number: int, key: str) -> float:
    """Return a number in [0, 1) that is uniform over the arguments."""
    digest = hashlib.sha256(f"{seed} {number} {key}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53
