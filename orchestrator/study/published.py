"""What a study states instead of measuring: published values, other methods, scores by hand."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Discriminator, Tag


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "one"


@dataclass(frozen=True)
class Reference:
    """Published values to stand beside the measured ones.

    miou: in percent, as in papers.
    parameters_m: parameters in millions.
    gflops: multiply-adds / 1e9.
    source: the table or page they are from.
    when: the cells they are for, as dotted keys and a value or a list of them; all when left out.
    """

    __pydantic_config__ = {"extra": "forbid"}

    miou: float | None = None
    parameters_m: float | None = None
    gflops: float | None = None
    source: str = ""
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        figures = {name: getattr(self, name) for name in ("miou", "parameters_m", "gflops")}
        if all(value is None for value in figures.values()):
            raise ValueError("a value is needed: miou, parameters_m or gflops")
        check_figures(figures)


References = Annotated[
    Annotated[Reference, Tag("one")] | Annotated[tuple[Reference, ...], Tag("list")],
    Discriminator(_one_or_list),
]


@dataclass(frozen=True)
class PublishedRow:
    """Another method's row: shown in the table as it was published, never trained.

    label: the method's name.
    miou: in percent, as in papers.
    parameters_m: parameters in millions.
    gflops: multiply-adds / 1e9.
    source: the table or page it is from.
    when: values of grid axes in whose part of the table it stands; all when left out.
    """

    __pydantic_config__ = {"extra": "forbid"}

    label: str
    miou: float | None = None
    parameters_m: float | None = None
    gflops: float | None = None
    source: str = ""
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_figures({name: getattr(self, name) for name in ("miou", "parameters_m", "gflops")})


@dataclass(frozen=True)
class EnteredScore:
    """A score that only a person can fetch, such as a test server's, of one trained cell.

    miou: in percent, as the server states it.
    source: which server, and when.
    seed: of the trial whose predictions were sent.
    when: the cells it is for, as dotted keys and a value or a list of them; all when left out.
    """

    __pydantic_config__ = {"extra": "forbid"}

    miou: float
    source: str
    seed: int = 0
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_figures({"miou": self.miou})


EnteredScores = Annotated[
    Annotated[EnteredScore, Tag("one")] | Annotated[tuple[EnteredScore, ...], Tag("list")],
    Discriminator(_one_or_list),
]


def check_figures(figures: dict[str, float | None]) -> None:
    """Raises ValueError where a published figure cannot be one: mIoU is in percent."""
    for name, value in figures.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, received {value}")
    miou = figures.get("miou")
    if miou is not None and not 1 < miou <= 100:
        raise ValueError(f"miou must be in percent, such as 77.3, received {miou}")
