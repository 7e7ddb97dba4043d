"""Spot machines with on-demand fallback: cluster.yaml's node provider on moto's AWS, driven by
Ray's real autoscaler."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from botocore.exceptions import ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.providers import _get_node_provider, _get_node_provider_cls
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from rich.console import Console

from orchestrator.cluster import refusals
from orchestrator.sweep.progress import StudyProgress, TrialProgress
from tests.support.aws import autoscale, start_head

pytestmark = [
    # deprecations inside botocore and moto
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Capacity:
    """EC2 with a limited number of spot and on-demand machines in each zone, given by its subnet.

    reason: the error code when no spot machine is left."""

    def __init__(
        self, provider: AWSNodeProvider, spot: Sequence[int], on_demand: int, reason: str
    ) -> None:
        self._spot = list(spot)
        self._on_demand = on_demand
        self._zones: list[str] = []
        self._reason = reason
        self._ec2 = provider.ec2_fail_fast
        provider.ec2_fail_fast = self

    def create_instances(self, **request: Any) -> list[Any]:
        if request["SubnetId"] not in self._zones:
            self._zones.append(request["SubnetId"])
        zone = self._zones.index(request["SubnetId"])
        market = "spot" if "InstanceMarketOptions" in request else "on demand"
        left = self._on_demand
        if market == "spot":
            left = self._spot[zone] if zone < len(self._spot) else 0
        granted = min(request["MaxCount"], left)
        if granted < request["MinCount"]:
            code = self._reason if market == "spot" else "InsufficientInstanceCapacity"
            raise ClientError({"Error": {"Code": code, "Message": "refused"}}, "RunInstances")
        if market == "spot":
            self._spot[zone] -= granted
        else:
            self._on_demand -= granted
        # moto launches MinCount machines; EC2 launches as many as it can.
        counts = {"MinCount": granted, "MaxCount": granted}
        return list(self._ec2.create_instances(**{**request, **counts}))


@pytest.fixture
def config(aws: Any, aws_config: dict[str, Any]) -> dict[str, Any]:
    """Return the bootstrapped cluster configuration that `ray up` leaves on the head."""
    prepared = prepare_config(aws_config)
    provider = _get_node_provider_cls(prepared["provider"])
    return dict(provider.bootstrap_config(prepared))


def provider_of(
    config: dict[str, Any],
    spot: Sequence[int],
    on_demand: int,
    reason: str = "UnfulfillableCapacity",
) -> AWSNodeProvider:
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    Capacity(provider, spot, on_demand, reason)
    return provider


def launched_machines(aws: Any) -> list[str]:
    """Return the market of each launched machine: `spot` or `on demand`."""
    return sorted(
        instance.get("InstanceLifecycle", "on demand")
        for reservation in aws.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spot", "started"),
    [
        ([8], ["spot", "spot"]),
        ([1], ["on demand", "spot"]),
        ([], ["on demand", "on demand"]),
    ],
)
def test_waiting_placement_groups_get_machines(
    aws: Any, config: dict[str, Any], tmp_path: Path, spot: list[int], started: list[str]
) -> None:
    provider = provider_of(config, spot, on_demand=8)
    autoscale(config, provider, start_head(config, provider), tmp_path, rounds=5)
    assert launched_machines(aws) == sorted(["on demand", *started])


def create(provider: AWSNodeProvider, config: dict[str, Any], count: int) -> None:
    """Start GPU machines, as the autoscaler does."""
    node_config = config["available_node_types"]["gpu"]["node_config"]
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu"}
    provider.create_node(node_config, tags, count)


def test_spot_machines_of_all_zones_come_before_on_demand_ones(
    aws: Any, config: dict[str, Any]
) -> None:
    create(provider_of(config, spot=[1, 2], on_demand=8), config, 4)
    assert launched_machines(aws) == ["on demand", "spot", "spot", "spot"]
    zones = {
        instance["Placement"]["AvailabilityZone"]
        for reservation in aws.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
        if "InstanceLifecycle" in instance
    }
    assert len(zones) == 2


def test_missing_capacity_is_reported(aws: Any, config: dict[str, Any]) -> None:
    with pytest.raises(NodeLaunchException, match="2 of 4 machines"):
        create(provider_of(config, spot=[1], on_demand=1), config, 4)
    assert launched_machines(aws) == ["on demand", "spot"]  # Ray finds them by their tags
    with pytest.raises(NodeLaunchException, match="InsufficientInstanceCapacity"):
        create(provider_of(config, spot=[], on_demand=0), config, 1)


def test_failing_set_ups_do_not_start_machines_forever(
    aws: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    provider = provider_of(config, spot=[99], on_demand=99)
    head = start_head(config, provider)
    autoscale(config, provider, head, tmp_path, rounds=20, setup_fails=True)
    assert launched_machines(aws).count("spot") == 4  # two for the two trials, and two more


def test_on_demand_machines_replace_missing_spot_machines_unless_disabled(
    aws: Any, config: dict[str, Any]
) -> None:
    no_role = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    create(provider_of(config, [], 1, no_role), config, 1)
    assert launched_machines(aws) == ["on demand"]
    config["provider"]["on_demand_fallback"] = False
    with pytest.raises(NodeLaunchException, match="create-service-linked-role"):
        create(provider_of(config, [], 8, no_role), config, 1)
    with pytest.raises(NodeLaunchException, match="UnfulfillableCapacity"):
        create(provider_of(config, spot=[1], on_demand=8), config, 2)
    assert launched_machines(aws) == ["on demand", "spot"]


def test_no_machine_is_started_after_three_failed_set_ups(aws: Any, config: dict[str, Any]) -> None:
    provider = provider_of(config, [8], 8)
    create(provider, config, 3)
    machines = provider.non_terminated_nodes({})

    def set_up(machine: str, status: str) -> None:
        provider.set_node_tags(machine, {TAG_RAY_NODE_STATUS: status})

    for status in ("update-failed", "update-failed", "up-to-date", "update-failed"):
        for _ in range(3):  # Ray tries the set-up of a machine three times
            set_up(machines[0], status)
        create(provider, config, 1)
    set_up(machines[1], "update-failed")
    create(provider, config, 1)
    set_up(machines[2], "update-failed")
    with pytest.raises(NodeLaunchException, match=r"set-up of the last 3 machines failed.*ray up"):
        create(provider, config, 1)
    assert len(launched_machines(aws)) == 8


def test_machine_that_is_reclaimed_during_its_set_up_is_no_failed_one(
    aws: Any, config: dict[str, Any]
) -> None:
    provider = provider_of(config, [8], 8)
    create(provider, config, 3)
    for machine in provider.non_terminated_nodes({}):
        provider.set_node_tags(machine, {TAG_RAY_NODE_STATUS: "update-failed"})
        aws.terminate_instances(InstanceIds=[machine])
        provider.non_terminated_nodes({})  # as in each round of Ray's autoscaler
        provider.set_node_tags(machine, {TAG_RAY_NODE_STATUS: "update-failed"})
    create(provider, config, 1)
    assert len(launched_machines(aws)) == 4


def test_studies_on_the_head_report_the_reason_of_a_refusal(
    aws: Any, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(refusals, "_POLL_SECONDS", 0.01)
    provider = provider_of(config, [], 1, "UnauthorizedOperation")
    trial = TrialProgress("strong", 1)
    console = Console(file=io.StringIO(), width=500)
    progress = StudyProgress.of(console, [trial])

    def output() -> str:
        """Refuse machines; return what a running study prints."""
        with refusals.problems_reported(progress.refused, progress.warn):
            with pytest.raises(NodeLaunchException):
                create(provider, config, 1)
            time.sleep(0.2)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert output() == ""  # this machine is not a head
    assert launched_machines(aws) == []  # no fallback for other errors than missing capacity
    (tmp_path / "ray_bootstrap_config.yaml").touch()
    assert "trials wait for machines that were refused: g6e.12xlarge: Unauthorized" in output()
    assert "add the type to `Machines`" in refusals.read_refusal()
    create(provider_of(config, [1], 0), config, 1)
    assert refusals.read_refusal() == ""


def test_network_interfaces_get_the_security_group_of_the_stack(
    aws: Any, aws_config: dict[str, Any]
) -> None:
    group = aws.describe_security_groups(GroupNames=["segmentation"])["SecurityGroups"][0]
    subnet = aws.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = {"DeviceIndex": 0, "InterfaceType": "efa", "SubnetId": subnet}
    aws_config["available_node_types"]["gpu"]["node_config"]["NetworkInterfaces"] = [interface]
    prepared = prepare_config(aws_config)
    bootstrap = _get_node_provider_cls(prepared["provider"]).bootstrap_config
    gpu = bootstrap(prepared)["available_node_types"]["gpu"]["node_config"]
    assert gpu["NetworkInterfaces"][0]["Groups"] == [group["GroupId"]]


@pytest.mark.slow
def test_machines_use_the_security_group_of_the_stack(
    aws: Any, aws_config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    # Ray itself would choose any network with a public subnet in the region's last zone.
    zone = aws.describe_availability_zones()["AvailabilityZones"][-1]["ZoneName"]
    network = aws.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    new = aws.create_subnet(VpcId=network, CidrBlock="10.0.1.0/24", AvailabilityZone=zone)
    in_zone = [{"Name": "availability-zone", "Values": [zone]}]
    for subnet in aws.describe_subnets(Filters=in_zone)["Subnets"]:
        public = subnet["SubnetId"] == new["Subnet"]["SubnetId"]
        aws.modify_subnet_attribute(
            SubnetId=subnet["SubnetId"], MapPublicIpOnLaunch={"Value": public}
        )
    prepared = prepare_config(aws_config)
    bootstrap = _get_node_provider_cls(prepared["provider"]).bootstrap_config
    node_types = bootstrap(prepared)["available_node_types"]
    groups = {
        tuple(node_type["node_config"]["SecurityGroupIds"]) for node_type in node_types.values()
    }
    by_name = [{"Name": "group-name", "Values": ["segmentation"]}]
    (group,) = aws.describe_security_groups(Filters=by_name)["SecurityGroups"]
    assert groups == {(group["GroupId"],)}

    prepared["provider"]["security_group"]["GroupName"] = "elsewhere"
    with pytest.raises(click.ClickException):
        bootstrap(prepared)
    assert "deploy clusters/aws/permissions.yaml" in " ".join(capsys.readouterr().err.split())
