"""Which of a trial's runs stands for it: one answer for what trains it and for what reports it."""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A run of the trial, in any study. in_work: another living process trains it."""

    @property
    def study(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def in_work(self) -> bool: ...


Run = TypeVar("Run", bound=Candidate)


def foremost(runs: Iterable[Run], study: str, code: str) -> Run | None:
    """The run that stands for a trial of `study`; None where the trial is missing.

    runs: all of its identity, in every study, oldest first. code: the present version.

    A finished run counts wherever it is, one of the present code before one of another. Then comes
    what another process trains right now, then what this study left unfinished; unfinished runs of
    other studies are theirs. Of equals, the study's own goes first, then the latest.
    """

    def rank(run: Run) -> tuple[int, bool]:
        own = run.study == study
        if run.status == "FINISHED":
            return (3 if run.code == code else 2), own
        return int(run.in_work), own

    counting = [
        run for run in runs if run.status == "FINISHED" or run.in_work or run.study == study
    ]
    return max(reversed(counting), key=rank, default=None)
