"""Counts, lists, causes of errors, and what a misspelled name may have meant."""

import urllib.error

from pipelines.wording import cause, counted, first_names, suggestion


def test_closest_name_comes_first() -> None:
    assert suggestion("Stat", ["list", "status"]) == "did you mean `status`? known: list, status"
    assert suggestion("x", ["list"]) == "known: list"
    assert suggestion("x", ["a, b", "c d"]) == "known: 'a, b', c d"


def test_counts_of_one_are_singular() -> None:
    assert [counted(n, "trial") for n in range(3)] == ["0 trials", "1 trial", "2 trials"]


def test_long_lists_end_with_the_number_of_others() -> None:
    assert first_names(["a", "b"], 2) == "a, b"
    assert first_names(iter(["a", "b", "c"]), 2) == "a, b and 1 more"


def test_innermost_cause_is_one_line() -> None:
    inner = ConnectionRefusedError("\nrefused  \x1b[31mhere\nTraceback")
    outer = RuntimeError("pool", inner)
    assert cause(OSError(outer)) == "refused ?[31mhere"
    assert cause(urllib.error.URLError(TimeoutError())) == "TimeoutError"
    assert cause(ValueError("x" * 300)) == "x" * 200 + "..."
