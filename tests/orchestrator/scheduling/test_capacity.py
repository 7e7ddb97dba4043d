"""`plan_placement`: a pure function of a study's resources and the nodes' resources."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling.capacity import DRIVER_RESOURCE, CapacityError, plan_placement
from orchestrator.study.resources import Resources

HEAD = {"CPU": 2.0, "GPU": 0.0, DRIVER_RESOURCE: 1e6}


def test_laptop_runs_one_trial_per_core() -> None:
    placement = plan_placement(Resources(), [HEAD])
    assert (placement.device, placement.concurrent, placement.per_worker) == (
        "cpu",
        2,
        {"CPU": 1.0},
    )


def test_only_whole_trials_are_placed() -> None:
    nodes = [HEAD, {"CPU": 3.0}, {"CPU": 3.0}]
    assert plan_placement(Resources(workers=3), nodes).concurrent == 2
    assert plan_placement(Resources(workers=5), nodes).concurrent == 1
    assert plan_placement(Resources(workers=2, cpus_per_worker=2), nodes).concurrent == 1


def test_gpus_are_used_if_available() -> None:
    nodes = [HEAD, {"CPU": 16.0, "GPU": 4.0}]
    placement = plan_placement(Resources(workers=2), nodes)
    assert (placement.device, placement.concurrent) == ("cuda", 2)
    assert placement.per_worker == {"CPU": 1.0, "GPU": 1.0}
    assert plan_placement(Resources(workers=2, device="cpu"), nodes).device == "cpu"
    assert plan_placement(Resources(gpus_per_worker=0.5), nodes).concurrent == 8


def test_concurrent_trials_limits_concurrency() -> None:
    assert plan_placement(Resources(concurrent_trials=1), [HEAD]).concurrent == 1
    assert plan_placement(Resources(concurrent_trials=9), [HEAD]).concurrent == 2


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(workers=3), r"workers is 3 with 1 CPU each, but the cluster has 2 CPU, enough"),
        (Resources(workers=2, cpus_per_worker=2), r"enough for at most 1 such worker"),
        (Resources(device="cuda"), "device is cuda, but the cluster has no GPU"),
        (Resources(workers=(3, 4)), r"workers is at least 3 with 1 CPU each"),
    ],
)
def test_resources_that_never_fit_are_rejected(resources: Resources, message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        plan_placement(resources, [HEAD])


def test_workers_are_placed_on_the_requested_gpu() -> None:
    ada = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
    turing = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:T4": 1.0}
    placement = plan_placement(Resources(workers=2, accelerator="T4"), [HEAD, ada, turing])
    assert (placement.concurrent, placement.gpu_types) == (2, ("T4",))
    assert placement.per_worker == {"CPU": 1.0, "GPU": 1.0, "accelerator_type:T4": 0.001}
    assert plan_placement(Resources(workers=2), [HEAD, ada, turing]).gpu_types == ("L40S", "T4")
    with pytest.raises(CapacityError, match=r"accelerator is H100, .* it has L40S, T4"):
        plan_placement(Resources(accelerator="H100"), [HEAD, ada, turing])
    with pytest.raises(CapacityError, match=r"workers is 5 .* on T4, .* use workers: 4 or fewer"):
        plan_placement(Resources(workers=5, accelerator="T4"), [HEAD, ada, turing])
    # `accelerator` is ignored if `auto` chooses CPUs.
    assert plan_placement(Resources(accelerator="H100"), [HEAD]).per_worker == {"CPU": 1.0}


def test_types_of_gpus_beside_which_no_worker_fits_do_not_count() -> None:
    large = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:H100": 1.0}
    small = {"CPU": 2.0, "GPU": 1.0, "accelerator_type:T4": 1.0}
    placement = plan_placement(Resources(cpus_per_worker=4), [HEAD, large, small])
    assert placement.gpu_types == ("H100",)


def test_workers_of_one_trial_do_not_share_a_gpu() -> None:
    with pytest.raises(CapacityError, match="NCCL refuses two workers of a trial on one GPU"):
        plan_placement(
            Resources(workers=(1, 2), gpus_per_worker=0.5), [HEAD, {"CPU": 8.0, "GPU": 2.0}]
        )


def test_range_of_workers_is_placed_with_its_minimum() -> None:
    assert plan_placement(Resources(workers=(1, 2)), [HEAD]).concurrent == 2
    assert plan_placement(Resources(workers=(2, 8)), [HEAD]).shape.workers == 2


def test_drivers_use_cpu_of_workers_without_a_head_node() -> None:
    with pytest.raises(CapacityError):
        plan_placement(Resources(workers=2), [{"CPU": 2.0}])
    assert plan_placement(Resources(workers=2, cpus_per_worker=0.9), [{"CPU": 2.0}]).concurrent == 1
    # The only worker of a trial is its driver.
    assert plan_placement(Resources(), [{"CPU": 2.0}]).concurrent == 2


@given(
    workers=st.integers(1, 6),
    nodes=st.lists(st.integers(0, 8), min_size=1, max_size=6),
)
def test_concurrency_is_the_largest_that_fits(workers: int, nodes: list[int]) -> None:
    offered = [{"CPU": float(cpus)} for cpus in nodes]
    offered[0][DRIVER_RESOURCE] = 1e6
    if sum(nodes) < workers:
        with pytest.raises(CapacityError):
            plan_placement(Resources(workers=workers), offered)
    else:
        assert (
            plan_placement(Resources(workers=workers), offered).concurrent == sum(nodes) // workers
        )
