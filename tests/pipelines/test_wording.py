"""Counts, and what a misspelled name may have meant."""

from pipelines.wording import counted, suggestion


def test_closest_name_comes_first() -> None:
    assert suggestion("Stat", ["list", "status"]) == "did you mean `status`? known: list, status"
    assert suggestion("x", ["list"]) == "known: list"


def test_counts_of_one_are_singular() -> None:
    assert [counted(n, "trial") for n in range(3)] == ["0 trials", "1 trial", "2 trials"]
