"""What a cluster may grow to, from the configuration that `ray up` leaves on its head."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster.autoscaler import (
    machine_types,
    machines_to_launch,
    nodes_at_full_size,
    read_bootstrap_config,
)
from orchestrator.scheduling.capacity import DRIVER_RESOURCE, CapacityError, plan_placement
from orchestrator.study.resources import Resources

PROJECT = Path(__file__).parents[3]
HEAD = {"CPU": 0.0, DRIVER_RESOURCE: 1e6, "memory": 3e10}


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    return loaded


def test_a_cluster_without_machines_holds_what_it_may_start(config: dict[str, Any]) -> None:
    nodes = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    assert len(nodes) == 1 + 8  # as `max_workers` says
    gang = plan_placement(Resources(workers=4, cpus_per_worker=8), nodes)
    assert (gang.device, gang.concurrent) == ("cuda", 8)
    assert plan_placement(Resources(workers=16, cpus_per_worker=8), nodes).concurrent == 2


def test_machines_that_are_there_are_not_counted_twice(config: dict[str, Any]) -> None:
    there = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0, "memory": 3e11}
    assert len(nodes_at_full_size([HEAD, there, there], config, ["GPU"])) == 1 + 8


def test_a_study_that_no_node_type_holds_is_refused(config: dict[str, Any]) -> None:
    nodes = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    with pytest.raises(CapacityError, match="33"):
        plan_placement(Resources(workers=33, cpus_per_worker=8), nodes)
    with pytest.raises(CapacityError):
        plan_placement(Resources(workers=1, cpus_per_worker=64), nodes)


def test_types_that_offer_what_is_needed_come_first(config: dict[str, Any]) -> None:
    config["available_node_types"]["cpu"] = {
        "resources": {"CPU": 96},
        "max_workers": 8,
        "priority": 9,
    }
    with_gpu = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    assert sum("GPU" in node for node in with_gpu) == 8
    without = nodes_at_full_size([HEAD], config, ["CPU"])
    assert sum(node["CPU"] == 96 for node in without) == 8


def test_a_cluster_that_does_not_grow_stays_as_it_is(config: dict[str, Any]) -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert nodes_at_full_size(nodes, None, ["CPU"]) == nodes


def test_no_configuration_or_another_one(tmp_path: Path) -> None:
    assert read_bootstrap_config(tmp_path / "absent.yaml") is None
    on_premises = tmp_path / "on-premises.yaml"
    on_premises.write_text((PROJECT / "clusters" / "on-premises.yaml").read_text())
    assert read_bootstrap_config(on_premises) is None
    (tmp_path / "broken.yaml").write_text("a: [")
    assert read_bootstrap_config(tmp_path / "broken.yaml") is None
    aws = tmp_path / "aws.yaml"
    aws.write_text((PROJECT / "cluster.yaml").read_text())
    assert read_bootstrap_config(aws) is not None


def test_the_machines_a_study_would_start(config: dict[str, Any]) -> None:
    gang = plan_placement(
        Resources(workers=4, cpus_per_worker=8), nodes_at_full_size([HEAD], config, ["GPU"])
    )
    assert machines_to_launch([HEAD], config, [gang.shape] * 3) == {"gpu": 3}
    there = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
    assert machines_to_launch([HEAD, there], config, [gang.shape] * 3) == {"gpu": 2}
    assert machines_to_launch([HEAD, there], config, [gang.shape]) == {}
    busy = [there] * 9  # one more than allowed: what is there is never too much
    assert machines_to_launch([HEAD, *busy], config, [gang.shape]) == {}
    half = plan_placement(Resources(workers=2), [HEAD, there])
    assert machines_to_launch([HEAD], config, [half.shape] * 4) == {"gpu": 2}


def test_only_the_machines_with_the_kind_of_gpu_asked_for_count(config: dict[str, Any]) -> None:
    config["available_node_types"]["hopper"] = {
        "resources": {"CPU": 96, "GPU": 8, "accelerator_type:H100": 1},
        "max_workers": 2,
    }
    resources = Resources(workers=8, accelerator="H100", device="cuda")
    nodes = nodes_at_full_size([HEAD], config, list(resources.per_worker("cuda")))
    gang = plan_placement(resources, nodes)
    assert (gang.concurrent, gang.gpu_types) == (2, ("H100",))
    shapes = [gang.shape] * 2
    assert machines_to_launch([HEAD], config, shapes) == {"hopper": 2}
    assert plan_placement(Resources(workers=8, device="cuda"), nodes).gpu_types == ("H100", "L40S")


def test_what_no_machine_holds_is_refused_with_the_kinds_there_are(config: dict[str, Any]) -> None:
    def refused(**changes: Any) -> str:
        resources = Resources(device="cuda", **changes)
        needed = list(resources.per_worker("cuda"))
        nodes = nodes_at_full_size([HEAD], config, needed)
        with pytest.raises(CapacityError) as error:
            plan_placement(resources, nodes, machine_types(config, needed))
        return str(error.value)

    kinds = "The cluster may start gpu (48 CPU, 4 GPU, L40S; 8 at most)"
    too_many = refused(workers=33, cpus_per_worker=8)
    assert "enough for at most 32 such workers; use workers: 32 or fewer" in too_many
    assert kinds in too_many
    too_large = refused(cpus_per_worker=64)
    assert "at most 0 such workers; the largest machine has 48 CPU, 4 GPU" in too_large
    assert kinds in too_large
    wrong_kind = refused(accelerator="H100")
    assert "accelerator is H100, but the cluster has no such GPU" in wrong_kind
    assert "it has L40S" in wrong_kind
