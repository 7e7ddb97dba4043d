"""An autoscaling cluster at full size, from the configuration that `ray up` leaves on its head."""

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
from tests.support.aws import use_large_machines

PROJECT = Path(__file__).parents[3]
HEAD = {DRIVER_RESOURCE: 1e6, "memory": 3e10}


@pytest.fixture
def config() -> dict[str, Any]:
    """Return cluster.yaml with its large machine type in use."""
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    use_large_machines(loaded)
    return loaded


def test_empty_cluster_counts_the_machines_it_may_start(config: dict[str, Any]) -> None:
    nodes = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    assert len(nodes) == 1 + 8  # `max_workers` in cluster.yaml
    placement = plan_placement(Resources(workers=4, cpus_per_worker=8), nodes)
    assert (placement.device, placement.concurrent) == ("cuda", 8)
    assert plan_placement(Resources(workers=16, cpus_per_worker=8), nodes).concurrent == 2


def test_running_machines_are_not_counted_twice(config: dict[str, Any]) -> None:
    machine = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0, "memory": 3e11}
    assert len(nodes_at_full_size([HEAD, machine, machine], config, ["GPU"])) == 1 + 8


def test_study_too_large_for_every_node_type_is_rejected(config: dict[str, Any]) -> None:
    nodes = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    with pytest.raises(CapacityError, match="33"):
        plan_placement(Resources(workers=33, cpus_per_worker=8), nodes)
    with pytest.raises(CapacityError):
        plan_placement(Resources(workers=1, cpus_per_worker=64), nodes)


def test_node_types_with_the_needed_resources_come_first(config: dict[str, Any]) -> None:
    config["available_node_types"]["cpu"] = {
        "resources": {"CPU": 96},
        "max_workers": 8,
        "priority": 9,
    }
    gpu_first = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    assert sum("GPU" in node for node in gpu_first) == 8
    cpu_only = nodes_at_full_size([HEAD], config, ["CPU"])
    assert sum(node.get("CPU") == 96 for node in cpu_only) == 8


def test_cluster_without_autoscaler_keeps_its_nodes(config: dict[str, Any]) -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert nodes_at_full_size(nodes, None, ["CPU"]) == nodes


def test_only_valid_autoscaling_configurations_are_read(tmp_path: Path) -> None:
    assert read_bootstrap_config(tmp_path / "absent.yaml") is None
    (tmp_path / "other.yaml").write_text("provider: {type: local}")
    assert read_bootstrap_config(tmp_path / "other.yaml") is None
    (tmp_path / "broken.yaml").write_text("a: [")
    assert read_bootstrap_config(tmp_path / "broken.yaml") is None
    aws = tmp_path / "aws.yaml"
    aws.write_text((PROJECT / "cluster.yaml").read_text())
    assert read_bootstrap_config(aws) is not None


def test_machines_to_launch_for_a_study(config: dict[str, Any]) -> None:
    placement = plan_placement(
        Resources(workers=4, cpus_per_worker=8), nodes_at_full_size([HEAD], config, ["GPU"])
    )
    assert machines_to_launch([HEAD], config, [placement.shape] * 3) == {"gpu": 3}
    machine = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
    assert machines_to_launch([HEAD, machine], config, [placement.shape] * 3) == {"gpu": 2}
    assert machines_to_launch([HEAD, machine], config, [placement.shape]) == {}
    busy = [machine] * 9  # one more than allowed: running machines are never too many
    assert machines_to_launch([HEAD, *busy], config, [placement.shape]) == {}
    half_machine = plan_placement(Resources(workers=2), [HEAD, machine])
    assert machines_to_launch([HEAD], config, [half_machine.shape] * 4) == {"gpu": 2}


def test_only_machines_with_the_requested_gpu_count(config: dict[str, Any]) -> None:
    config["available_node_types"]["hopper"] = {
        "resources": {"CPU": 96, "GPU": 8, "accelerator_type:H100": 1},
        "max_workers": 2,
    }
    resources = Resources(workers=8, accelerator="H100", device="cuda")
    nodes = nodes_at_full_size([HEAD], config, list(resources.per_worker("cuda")))
    placement = plan_placement(resources, nodes)
    assert (placement.concurrent, placement.gpu_types) == (2, ("H100",))
    shapes = [placement.shape] * 2
    assert machines_to_launch([HEAD], config, shapes) == {"hopper": 2}
    assert plan_placement(Resources(workers=8, device="cuda"), nodes).gpu_types == ("H100", "L40S")


def test_capacity_error_lists_the_available_machine_types(config: dict[str, Any]) -> None:
    def error_message(**changes: Any) -> str:
        resources = Resources(device="cuda", **changes)
        needed = list(resources.per_worker("cuda"))
        nodes = nodes_at_full_size([HEAD], config, needed)
        with pytest.raises(CapacityError) as error:
            plan_placement(resources, nodes, machine_types(config, needed))
        return str(error.value)

    kinds = "The cluster may start gpu (48 CPU, 4 GPU, L40S; 8 at most)"
    too_many = error_message(workers=33, cpus_per_worker=8)
    assert "enough for at most 32 such workers; use workers: 32 or fewer" in too_many
    assert kinds in too_many
    too_large = error_message(cpus_per_worker=64)
    assert "at most 0 such workers; the largest machine has 48 CPU, 4 GPU" in too_large
    assert kinds in too_large
    wrong_kind = error_message(accelerator="H100")
    assert "accelerator is H100, but the cluster has no such GPU" in wrong_kind
    assert "it has L40S" in wrong_kind
