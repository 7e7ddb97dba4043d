"""What a misspelled name may have meant."""

from pipelines.suggestion import suggestion


def test_closest_name_comes_first() -> None:
    assert suggestion("Stat", ["list", "status"]) == "did you mean `status`? known: list, status"
    assert suggestion("x", ["list"]) == "known: list"
