"""Claims, over every order in which processes can write, read, give way and die."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.claims import Claim, settle


class Store:
    """A store as MLflow is one: claims can be written, and all of them read at once."""

    def __init__(self) -> None:
        self.claims: dict[str, bool] = {}

    def others(self, token: str) -> list[Claim]:
        return [Claim(name, held) for name, held in self.claims.items() if name != token]


class Process:
    """One that asks, reads and acts, one request at a time: others may act between any two."""

    def __init__(self, token: str, store: Store) -> None:
        self.token, self.store = token, store
        self.state = "idle"
        self.verdict = ""

    def act(self) -> None:
        if self.state == "idle":
            self.store.claims[self.token] = False
            self.state = "asked"
        elif self.state == "asked":
            self.verdict = settle(self.token, self.store.others(self.token))
            self.state = "asked" if self.verdict == "wait" else "decided"
        elif self.state == "decided" and self.verdict == "take":
            self.store.claims[self.token] = True
            self.state = "holds"
        elif self.state == "decided":
            del self.store.claims[self.token]
            self.state = "gone"


@given(st.permutations("abcd"), st.lists(st.integers(0, 3), max_size=60))
def test_one_of_many_holds_whatever_the_order(tokens: list[str], schedule: list[int]) -> None:
    store = Store()
    processes = [Process(token, store) for token in tokens]
    for index in schedule:
        processes[index].act()
        assert sum(process.state == "holds" for process in processes) <= 1
    for _ in range(12):  # then all go on in turn
        for process in processes:
            process.act()
    assert sorted(process.state for process in processes) == ["gone"] * 3 + ["holds"]


@given(st.permutations("abc"), st.lists(st.integers(0, 2), max_size=30), st.integers(0, 2))
def test_a_process_that_dies_holds_nobody_up(
    tokens: list[str], schedule: list[int], dead: int
) -> None:
    """The claims of the dead are not read: their processes are known to be gone."""
    store = Store()
    processes = [Process(token, store) for token in tokens]
    for index in schedule:
        processes[index].act()
    store.claims.pop(processes[dead].token, None)
    living = [process for process in processes if process is not processes[dead]]
    for _ in range(12):
        for process in living:
            process.act()
    assert sum(process.state == "holds" for process in living) <= 1
    assert all(process.state in ("holds", "gone") for process in living)
