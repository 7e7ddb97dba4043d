"""The best samples of a search, as its report writes them and a table takes them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.study.sampling import RangeConfig
from pipelines.config import dump_yaml

FILE = "found.yaml"

_HEADER = """\
# The best sample of each row of a search. A table takes them by
#   from_search: {file}
"""


@dataclass(frozen=True)
class FoundSample:
    """The best sample of one row in one cell of the grid.

    variant: the row.
    set: what the row changes in the search's `base`, by dotted key: by its own `set`, and by the
        parts of `when` that name it. A table's row that sets the same takes these values, whatever
        its name; without this key, the row of the same name does.
    axes: the grid's values, by dotted key; empty without a grid.
    values: the best values, by dotted key.
    sample: number of the best sample.
    score: its mean over the seeds, in the units of the report.
    tried: number of samples that ended: finished, failed or stopped early.
    """

    __pydantic_config__ = {"extra": "forbid"}

    variant: str
    set: dict[str, Any] | None = field(default=None, kw_only=True)
    values: dict[str, Any]
    sample: int
    score: float
    tried: int
    axes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must have the values that the search found, received none")
        if self.sample < 0 or self.tried < 1:
            raise ValueError(
                f"sample {self.sample} of {self.tried} that were tried is impossible; both come "
                "from the report of a search"
            )


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    search: name of the search.
    method: how its samples were drawn.
    samples: number of samples of each row.
    metric: score by which the best sample was chosen.
    split: on whose images it was chosen.
    seeds: that each sample was trained with.
    folds: number of folds of each seed; none without folds.
    base: settings that its rows started from, by dotted key, without defaults and without what the
        grid and the ranges set.
    ranges: what was sampled, by dotted key.
    rows: the best sample of each row that has one.
    """

    __pydantic_config__ = {"extra": "forbid"}

    search: str
    method: Literal["random", "tpe"]
    samples: int
    metric: str
    split: str
    seeds: tuple[int, ...]
    base: dict[str, Any] | None = field(default=None, kw_only=True)
    ranges: dict[str, RangeConfig]
    rows: tuple[FoundSample, ...]
    folds: int | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, received {self.samples}")
        if not self.seeds:
            raise ValueError("seeds must have at least one seed, received none")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, received {self.folds}")
        if self.base is None and any(row.set is not None for row in self.rows):
            raise ValueError("rows have `set`, which needs `base`, the settings that it changes")

    def as_yaml(self) -> str:
        """Return the content of the file."""
        values = asdict(self)
        values["ranges"] = {
            key: {name: each for name, each in limits.items() if each is not None}
            for key, limits in values["ranges"].items()
        }
        values["rows"] = [_without_unknown(row) for row in values["rows"]]
        values = _without_unknown(values)
        return _HEADER.format(file=FILE) + dump_yaml(_plain(values), width=90, flow_lists=True)


def _without_unknown(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the file without those that have no value."""
    optional = ("folds", "base", "set")
    return {key: each for key, each in values.items() if each is not None or key not in optional}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
