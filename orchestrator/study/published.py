"""Values a study file supplies instead of measuring: published results and entered scores."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Discriminator, Tag


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "one"


@dataclass(frozen=True)
class Reference:
    """Published values for a row, shown next to the measured ones. At least one value is
    required.

    miou: in percent.
    parameters_m: parameters in millions.
    gflops: multiply-adds / 1e9 for one image.
    source: the table or page that published the values.
    when: the cells the values are for: dotted keys, each with a value or a list of values; all
        cells by default.
    """

    __pydantic_config__ = {"extra": "forbid"}

    miou: float | None = None
    parameters_m: float | None = None
    gflops: float | None = None
    source: str = ""
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in ("miou", "parameters_m", "gflops")}
        if all(value is None for value in values.values()):
            raise ValueError("a value is needed: miou, parameters_m or gflops")
        _check_values(values)


References = Annotated[
    Annotated[Reference, Tag("one")] | Annotated[tuple[Reference, ...], Tag("list")],
    Discriminator(_one_or_list),
]


@dataclass(frozen=True)
class PublishedRow:
    """A row of published values for another method, which is never trained.

    label: the method's name.
    miou: in percent.
    parameters_m: parameters in millions.
    gflops: multiply-adds / 1e9 for one image.
    source: the table or page that published the values.
    when: the cells the row is shown for: grid axes, each with a value or a list of values; all
        cells by default.
    """

    __pydantic_config__ = {"extra": "forbid"}

    label: str
    miou: float | None = None
    parameters_m: float | None = None
    gflops: float | None = None
    source: str = ""
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_values({name: getattr(self, name) for name in ("miou", "parameters_m", "gflops")})


@dataclass(frozen=True)
class EnteredScore:
    """A score of one trained trial that is entered by hand, such as a test server's.

    miou: in percent.
    source: the server and the date.
    seed: seed of the trial that was scored.
    when: the cells the score is for: dotted keys, each with a value or a list of values; all cells
        by default.
    """

    __pydantic_config__ = {"extra": "forbid"}

    miou: float
    source: str
    seed: int = 0
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_values({"miou": self.miou})


EnteredScores = Annotated[
    Annotated[EnteredScore, Tag("one")] | Annotated[tuple[EnteredScore, ...], Tag("list")],
    Discriminator(_one_or_list),
]


def _check_values(values: dict[str, float | None]) -> None:
    """Raises ValueError for a value that is not positive, or an mIoU that is not in percent."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, received {value}")
    miou = values.get("miou")
    if miou is not None and not 1 < miou <= 100:
        raise ValueError(f"miou must be in percent, such as 77.3, received {miou}")
