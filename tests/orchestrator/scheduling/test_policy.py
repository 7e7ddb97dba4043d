"""The order in which trials start: a pure function of waiting trials, running trials and nodes."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.scheduling.policy import (
    GangShape,
    Node,
    Running,
    Waiting,
    choose,
    fit,
    in_order,
    left_over,
    simulate,
    workers_that_fit,
)

TWO_WORKERS = GangShape.of(2, {"GPU": 1.0})
ONE_WORKER = GangShape.of(1, {"GPU": 1.0})


def names(trials: list[Waiting]) -> list[str]:
    return [trial.name for trial in trials]


def gpus(*counts: float) -> list[Node]:
    return [{"GPU": float(count)} for count in counts]


def test_order_is_by_priority_then_length_then_file_order() -> None:
    trials = [
        Waiting("short", ONE_WORKER, 1.0, priority=1),
        Waiting("also short", ONE_WORKER, 1.0, priority=1),
        Waiting("long", ONE_WORKER, 9.0, priority=1),
        Waiting("baseline", ONE_WORKER, 2.0, priority=0),
    ]
    assert names(in_order(trials)) == ["baseline", "long", "short", "also short"]


def test_trial_may_span_nodes_but_worker_may_not() -> None:
    assert fit(TWO_WORKERS, gpus(1, 1)) == [{"GPU": 0.0}, {"GPU": 0.0}]
    assert fit(TWO_WORKERS, gpus(1)) is None
    assert fit(GangShape.of(1, {"GPU": 2.0}), gpus(1, 1)) is None


def test_fractional_gpus_are_shared() -> None:
    half = GangShape.of(1, {"GPU": 0.5})
    waiting = [Waiting(str(i), half, 1.0) for i in range(9)]
    assert len(choose(waiting, [], gpus(1, 1))) == 4
    assert len(choose([Waiting(str(i), GangShape.of(1, {"GPU": 1 / 3}), 1.0) for i in range(9)], [],
                      gpus(1))) == 3  # fmt: skip


@pytest.mark.parametrize(
    ("share", "whole", "expected"),
    [(0.6, 2, 2), (0.7, 8, 8), (0.4, 4, 8), (0.5, 2, 4), (0.25, 1, 4)],
)
def test_part_of_a_gpu_is_on_one_gpu(share: float, whole: int, expected: int) -> None:
    nodes = gpus(whole)
    assert workers_that_fit({"GPU": share}, nodes) == expected
    assert fit(GangShape.of(expected, {"GPU": share}), nodes) is not None
    assert fit(GangShape.of(expected + 1, {"GPU": share}), nodes) is None


def test_drivers_are_placed_on_nodes_with_their_resource() -> None:
    gang = GangShape.of(1, {"CPU": 1.0}, {"trial_driver": 1.0})
    nodes: list[Node] = [{"trial_driver": 2.0}, {"CPU": 8.0}]
    assert len(choose([Waiting(str(i), gang, 1.0) for i in range(9)], [], nodes)) == 2


def test_max_concurrent_limits_running_trials() -> None:
    waiting = [Waiting(str(i), ONE_WORKER, 1.0) for i in range(9)]
    assert len(choose(waiting, [Running(ONE_WORKER, 1.0, 0.0)], gpus(8), max_concurrent=3)) == 2


def test_short_trials_run_while_a_large_one_waits() -> None:
    large = Waiting("large", GangShape.of(4, {"GPU": 1.0}), 100.0)
    running = [Running(TWO_WORKERS, seconds=10.0, elapsed=4.0)]  # six seconds to go
    short_single = Waiting("fits the hole", ONE_WORKER, 5.0)
    long_single = Waiting("outlasts it", ONE_WORKER, 50.0)
    assert names(choose([large, long_single, short_single], running, gpus(4))) == ["fits the hole"]
    # The long trial may start early, too, if it does not delay the large one.
    assert names(choose([large, long_single, short_single], running, gpus(4, 1))) == [
        "outlasts it",
        "fits the hole",
    ]


def test_trial_beyond_its_estimate_still_counts_as_running() -> None:
    delayed = Running(ONE_WORKER, seconds=10.0, elapsed=30.0)
    assert delayed.remaining == 3.0
    large = Waiting("large", TWO_WORKERS, 100.0)
    assert choose([large, Waiting("small", ONE_WORKER, 5.0)], [delayed], gpus(2)) == []


def test_nothing_starts_if_running_trials_need_all_remaining_nodes() -> None:
    assert choose([Waiting("a", ONE_WORKER, 1.0)], [Running(TWO_WORKERS, 1.0, 0.0)], gpus(1)) == []


def test_trial_that_never_fits_does_not_block_others() -> None:
    too_large = Waiting("never", GangShape.of(9, {"GPU": 1.0}), 100.0)
    assert names(choose([too_large, Waiting("a", ONE_WORKER, 1.0)], [], gpus(2))) == ["a"]
    assert simulate([too_large, Waiting("a", ONE_WORKER, 1.0)], gpus(2)) == {"a": (0.0, 1.0)}


def test_large_trial_is_not_starved_by_small_ones() -> None:
    small = [Waiting(f"small {i}", ONE_WORKER, 10.0) for i in range(40)]
    large = Waiting("large", GangShape.of(4, {"GPU": 1.0}), 11.0)
    times = simulate([*small, large], gpus(4))
    assert times["large"][0] == 0.0
    # If it is last in the order, it waits only for the trials before it.
    delayed = Waiting("large", GangShape.of(4, {"GPU": 1.0}), 1.0)
    assert simulate([*small, delayed], gpus(4))["large"] == (100.0, 101.0)


def test_schedule_of_100_trials_on_32_nodes() -> None:
    """Trials of 8 GPUs on nodes of 4: 16 at a time, seed 0 of two rows first, then the longest,
    and no idle GPU while a trial waits."""
    gang = GangShape.of(8, {"CPU": 2.0, "GPU": 1.0}, {"trial_driver": 1.0})
    nodes: list[Node] = [{"CPU": 16.0, "GPU": 4.0} for _ in range(32)]
    nodes.append({"CPU": 4.0, "trial_driver": 1e6})
    trials = [
        Waiting(f"{index}", gang, 3600.0 + 97.0 * (index * 37 % 100), 0 if index < 2 else 1)
        for index in range(100)
    ]
    times = simulate(trials, nodes)
    assert len(times) == 100
    assert times["0"][0] == times["1"][0] == 0.0
    starts = [times[trial.name][0] for trial in in_order(trials)]
    assert starts == sorted(starts)
    wall = max(end for _, end in times.values())
    work = sum(trial.seconds for trial in trials)
    longest = max(trial.seconds for trial in trials)
    # Graham's bound for list scheduling (1966).
    assert wall <= work / 16 + longest * (1 - 1 / 16) + 1e-6
    # After the last start, no trial waits.
    for time in sorted({start for start, _ in times.values()})[:-1]:
        running = sum(start <= time < end for start, end in times.values())
        assert running == 16


def waiting_trials(*worker_gpus: float) -> st.SearchStrategy[list[Waiting]]:
    rows = st.tuples(
        st.integers(1, 4), st.sampled_from(worker_gpus), st.integers(1, 50), st.integers(0, 1)
    )
    return st.lists(rows, min_size=1, max_size=10).map(
        lambda drawn_rows: [
            Waiting(str(index), GangShape.of(workers, {"GPU": share}), float(seconds), rank)
            for index, (workers, share, seconds, rank) in enumerate(drawn_rows)
        ]
    )


TRIALS = waiting_trials(0.5, 1.0, 2.0)
# When trial 1 ends, trial 0 has one second left, too little to run trial 3 before trial 2.
ALMOST_DONE = [
    Waiting(str(index), GangShape.of(workers, {"GPU": 1.0}), seconds)
    for index, (workers, seconds) in enumerate([(2, 21.0), (1, 20.0), (3, 3.0), (1, 2.0)])
]
NODES = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda counts: gpus(*counts))


@given(trials=TRIALS, nodes=NODES)
def test_running_trials_always_fit_the_nodes(trials: list[Waiting], nodes: list[Node]) -> None:
    times = simulate(trials, nodes)
    by_name = {trial.name: trial for trial in trials}
    for time, _ in times.values():
        running = [by_name[n].gang for n, (start, end) in times.items() if start <= time < end]
        assert left_over(nodes, running) is not None


@given(trials=TRIALS, nodes=NODES)
def test_every_trial_that_fits_runs_once_within_the_serial_time(
    trials: list[Waiting], nodes: list[Node]
) -> None:
    times = simulate(trials, nodes)
    fitting = {trial.name for trial in trials if fit(trial.gang, nodes) is not None}
    assert set(times) == fitting
    if fitting:
        wall = max(end for _, end in times.values())
        assert wall <= sum(trial.seconds for trial in trials if trial.name in fitting)


@given(trials=waiting_trials(1.0), nodes=NODES)
@example(trials=ALMOST_DONE, nodes=gpus(3))
def test_first_waiting_trial_is_never_delayed_by_later_ones(
    trials: list[Waiting], nodes: list[Node]
) -> None:
    """Backfilling, by its definition: with exact estimates and workers of one size, the first trial
    that has to wait starts no later than it would without the trials after it."""
    queue = [trial for trial in in_order(trials) if fit(trial.gang, nodes) is not None]
    first = choose(queue, [], nodes)
    first_waiting = next((trial for trial in queue if trial not in first), None)
    if first_waiting is None:
        return
    ahead = list(itertools.takewhile(lambda trial: trial is not first_waiting, queue))
    times_without_later = simulate([*ahead, first_waiting], nodes)
    assert (
        simulate(queue, nodes)[first_waiting.name][0] <= times_without_later[first_waiting.name][0]
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=5))
def test_workers_fit_node_by_node(nodes: list[tuple[int, int]]) -> None:
    worker = {"CPU": 2.0, "GPU": 1.0, "accelerator_type:T4": 0.001}
    free = [{"CPU": float(c), "GPU": float(g), "accelerator_type:T4": 1.0} for c, g in nodes]
    assert workers_that_fit(worker, free) == sum(min(cpus // 2, gpus) for cpus, gpus in nodes)
    without = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert workers_that_fit(worker, without) == 0
