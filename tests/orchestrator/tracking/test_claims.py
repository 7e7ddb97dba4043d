"""Claims on a study, over many orders in which processes write, read, give way and die."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.claims import Claim, settle


class Store:
    """A store like MLflow: claims can be written one by one and read all at once."""

    def __init__(self) -> None:
        self.claims: dict[str, bool] = {}

    def others(self, token: str) -> list[Claim]:
        return [Claim(name, held) for name, held in self.claims.items() if name != token]


class Process:
    """A process that claims, reads and acts; other processes may act between any two requests."""

    def __init__(self, token: str, store: Store) -> None:
        self.token, self.store = token, store
        self.state = "idle"
        self.verdict = ""

    def act(self) -> None:
        if self.state == "idle":
            self.store.claims[self.token] = False
            self.state = "requested"
        elif self.state == "requested":
            self.verdict = settle(self.token, self.store.others(self.token))
            self.state = "requested" if self.verdict == "wait" else "decided"
        elif self.state == "decided" and self.verdict == "take":
            self.store.claims[self.token] = True
            self.state = "holds"
        elif self.state == "decided":
            del self.store.claims[self.token]
            self.state = "gone"


@given(st.permutations("abcd"), st.lists(st.integers(0, 3), max_size=60))
def test_exactly_one_process_holds_the_claim_in_any_order(
    tokens: list[str], schedule: list[int]
) -> None:
    store = Store()
    processes = [Process(token, store) for token in tokens]
    for index in schedule:
        processes[index].act()
        assert sum(process.state == "holds" for process in processes) <= 1
    for _ in range(12):  # then all continue in turn
        for process in processes:
            process.act()
    assert sorted(process.state for process in processes) == ["gone"] * 3 + ["holds"]


@given(st.permutations("abc"), st.lists(st.integers(0, 2), max_size=30), st.integers(0, 2))
def test_dead_process_does_not_block_others(
    tokens: list[str], schedule: list[int], dead_index: int
) -> None:
    """Claims of dead processes are not read, because the processes are known to have ended."""
    store = Store()
    processes = [Process(token, store) for token in tokens]
    for index in schedule:
        processes[index].act()
    store.claims.pop(processes[dead_index].token, None)
    surviving = [process for process in processes if process is not processes[dead_index]]
    for _ in range(12):
        for process in surviving:
            process.act()
    assert sum(process.state == "holds" for process in surviving) <= 1
    assert all(process.state in ("holds", "gone") for process in surviving)
