"""Which trials start when: a pure function of what waits, what runs and what the nodes offer."""

import itertools

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

PAIR = GangShape.of(2, {"GPU": 1.0})
SINGLE = GangShape.of(1, {"GPU": 1.0})


def names(trials: list[Waiting]) -> list[str]:
    return [trial.name for trial in trials]


def gpus(*counts: float) -> list[Node]:
    return [{"GPU": float(count)} for count in counts]


def test_rank_comes_before_length_and_length_before_the_order_of_the_file() -> None:
    trials = [
        Waiting("short", SINGLE, 1.0, priority=1),
        Waiting("also short", SINGLE, 1.0, priority=1),
        Waiting("long", SINGLE, 9.0, priority=1),
        Waiting("baseline", SINGLE, 2.0, priority=0),
    ]
    assert names(in_order(trials)) == ["baseline", "long", "short", "also short"]


def test_a_gang_may_span_nodes_but_a_worker_may_not() -> None:
    assert fit(PAIR, gpus(1, 1)) == [{"GPU": 0.0}, {"GPU": 0.0}]
    assert fit(PAIR, gpus(1)) is None
    assert fit(GangShape.of(1, {"GPU": 2.0}), gpus(1, 1)) is None


def test_fractions_of_a_gpu_share_it() -> None:
    half = GangShape.of(1, {"GPU": 0.5})
    waiting = [Waiting(str(i), half, 1.0) for i in range(9)]
    assert len(choose(waiting, [], gpus(1, 1))) == 4
    assert len(choose([Waiting(str(i), GangShape.of(1, {"GPU": 1 / 3}), 1.0) for i in range(9)], [],
                      gpus(1))) == 3  # fmt: skip


def test_drivers_lie_where_their_resource_is() -> None:
    gang = GangShape.of(1, {"CPU": 1.0}, {"trial_driver": 1.0})
    nodes: list[Node] = [{"CPU": 0.0, "trial_driver": 2.0}, {"CPU": 8.0}]
    assert len(choose([Waiting(str(i), gang, 1.0) for i in range(9)], [], nodes)) == 2


def test_concurrency_can_be_bounded() -> None:
    waiting = [Waiting(str(i), SINGLE, 1.0) for i in range(9)]
    assert len(choose(waiting, [Running(SINGLE, 1.0, 0.0)], gpus(8), max_concurrent=3)) == 2


def test_holes_are_filled_by_what_ends_before_the_large_gang_can_start() -> None:
    large = Waiting("large", GangShape.of(4, {"GPU": 1.0}), 100.0)
    at_work = [Running(PAIR, seconds=10.0, elapsed=4.0)]  # six seconds to go
    fits = Waiting("fits the hole", SINGLE, 5.0)
    outlasts = Waiting("outlasts it", SINGLE, 50.0)
    assert names(choose([large, outlasts, fits], at_work, gpus(4))) == ["fits the hole"]
    # Where the large gang keeps its place all the same, the long one may go first too.
    assert names(choose([large, outlasts, fits], at_work, gpus(4, 1))) == [
        "outlasts it",
        "fits the hole",
    ]


def test_a_trial_that_outlasts_its_estimate_still_counts_as_running() -> None:
    late = Running(SINGLE, seconds=10.0, elapsed=30.0)
    assert late.remaining == 3.0
    large = Waiting("large", PAIR, 100.0)
    assert choose([large, Waiting("small", SINGLE, 5.0)], [late], gpus(2)) == []


def test_nothing_starts_where_a_node_was_lost_and_the_running_need_the_rest() -> None:
    assert choose([Waiting("a", SINGLE, 1.0)], [Running(PAIR, 1.0, 0.0)], gpus(1)) == []


def test_what_never_fits_holds_up_nobody() -> None:
    never = Waiting("never", GangShape.of(9, {"GPU": 1.0}), 100.0)
    assert names(choose([never, Waiting("a", SINGLE, 1.0)], [], gpus(2))) == ["a"]
    assert simulate([never, Waiting("a", SINGLE, 1.0)], gpus(2)) == {"a": (0.0, 1.0)}


def test_a_large_gang_is_not_put_off_by_a_stream_of_small_ones() -> None:
    small = [Waiting(f"small {i}", SINGLE, 10.0) for i in range(40)]
    large = Waiting("large", GangShape.of(4, {"GPU": 1.0}), 11.0)
    times = simulate([*small, large], gpus(4))
    assert times["large"][0] == 0.0
    # Also when it comes last in the order, it waits for what is before it and no longer.
    late = Waiting("large", GangShape.of(4, {"GPU": 1.0}), 1.0)
    assert simulate([*small, late], gpus(4))["large"] == (100.0, 101.0)


def test_a_hundred_trials_on_thirty_two_nodes() -> None:
    """Trials of 8 GPUs on nodes of 4: sixteen at a time, seed 0 of two rows first, the longest
    next, and no GPU idle while a gang waits."""
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
    for moment in sorted({start for start, _ in times.values()})[:-1]:  # after it, nobody waits
        at_work = sum(start <= moment < end for start, end in times.values())
        assert at_work == 16


def studies(*worker_gpus: float) -> st.SearchStrategy[list[Waiting]]:
    rows = st.tuples(
        st.integers(1, 4), st.sampled_from(worker_gpus), st.integers(1, 50), st.integers(0, 1)
    )
    return st.lists(rows, min_size=1, max_size=10).map(
        lambda found: [
            Waiting(str(index), GangShape.of(workers, {"GPU": share}), float(seconds), rank)
            for index, (workers, share, seconds, rank) in enumerate(found)
        ]
    )


TRIALS = studies(0.5, 1.0, 2.0)
# When the second ends, the first has a second left, too little for the fourth before the third.
ALMOST_DONE = [
    Waiting(str(index), GangShape.of(workers, {"GPU": 1.0}), seconds)
    for index, (workers, seconds) in enumerate([(2, 21.0), (1, 20.0), (3, 3.0), (1, 2.0)])
]
NODES = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda counts: gpus(*counts))


@given(trials=TRIALS, nodes=NODES)
def test_no_moment_of_a_study_needs_more_than_there_is(
    trials: list[Waiting], nodes: list[Node]
) -> None:
    times = simulate(trials, nodes)
    by_name = {trial.name: trial for trial in trials}
    for moment, _ in times.values():
        at_work = [by_name[n].gang for n, (start, end) in times.items() if start <= moment < end]
        assert left_over(nodes, at_work) is not None


@given(trials=TRIALS, nodes=NODES)
def test_every_trial_that_fits_runs_once_and_nothing_idles_for_ever(
    trials: list[Waiting], nodes: list[Node]
) -> None:
    times = simulate(trials, nodes)
    fitting = {trial.name for trial in trials if fit(trial.gang, nodes) is not None}
    assert set(times) == fitting
    if fitting:
        wall = max(end for _, end in times.values())
        assert wall <= sum(trial.seconds for trial in trials if trial.name in fitting)


@given(trials=studies(1.0), nodes=NODES)
@example(trials=ALMOST_DONE, nodes=gpus(3))
def test_the_first_in_order_is_never_delayed_by_those_behind_it(
    trials: list[Waiting], nodes: list[Node]
) -> None:
    """Backfilling against its definition: with exact estimates and workers of one size, the first
    that had to wait starts no later than it would with nobody behind it."""
    queue = [trial for trial in in_order(trials) if fit(trial.gang, nodes) is not None]
    first = choose(queue, [], nodes)
    waited = next((trial for trial in queue if trial not in first), None)
    if waited is None:
        return
    ahead = list(itertools.takewhile(lambda trial: trial is not waited, queue))
    alone = simulate([*ahead, waited], nodes)
    assert simulate(queue, nodes)[waited.name][0] <= alone[waited.name][0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=5))
def test_workers_fit_node_by_node(nodes: list[tuple[int, int]]) -> None:
    worker = {"CPU": 2.0, "GPU": 1.0, "accelerator_type:T4": 0.001}
    free = [{"CPU": float(c), "GPU": float(g), "accelerator_type:T4": 1.0} for c, g in nodes]
    assert workers_that_fit(worker, free) == sum(min(cpus // 2, gpus) for cpus, gpus in nodes)
    without = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert workers_that_fit(worker, without) == 0
