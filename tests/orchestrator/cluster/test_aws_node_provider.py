"""Spot machines with on-demand fallback: cluster.yaml's node provider on moto's AWS, driven by
Ray's real autoscaler."""

from pathlib import Path
from typing import Any

import click
import pytest
from botocore.exceptions import ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.providers import _get_node_provider, _get_node_provider_cls
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from tests.support.aws import autoscale, start_head

pytestmark = [
    # deprecations inside botocore and moto
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Capacity:
    """EC2 with a limited number of spot and on-demand machines.

    reason: the error code when no spot machine is left."""

    def __init__(self, provider: AWSNodeProvider, spot: int, on_demand: int, reason: str) -> None:
        self._left = {"spot": spot, "on demand": on_demand}
        self._reason = reason
        self._ec2 = provider.ec2_fail_fast
        provider.ec2_fail_fast = self

    def create_instances(self, **request: Any) -> list[Any]:
        market = "spot" if "InstanceMarketOptions" in request else "on demand"
        granted = min(request["MaxCount"], self._left[market])
        if granted < request["MinCount"]:
            code = self._reason if market == "spot" else "InsufficientInstanceCapacity"
            raise ClientError({"Error": {"Code": code, "Message": "refused"}}, "RunInstances")
        self._left[market] -= granted
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
    config: dict[str, Any], spot: int, on_demand: int, reason: str = "UnfulfillableCapacity"
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
        (8, ["spot", "spot"]),
        (1, ["on demand", "spot"]),
        (0, ["on demand", "on demand"]),
    ],
)
def test_waiting_placement_groups_get_machines(
    aws: Any, config: dict[str, Any], tmp_path: Path, spot: int, started: list[str]
) -> None:
    provider = provider_of(config, spot, on_demand=8)
    autoscale(config, provider, start_head(config, provider), tmp_path, rounds=5)
    assert launched_machines(aws) == sorted(["on demand", *started])


@pytest.mark.slow
def test_missing_capacity_is_reported(aws: Any, config: dict[str, Any]) -> None:
    node_type = config["available_node_types"]["gpu"]["node_config"]
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu"}
    with pytest.raises(NodeLaunchException, match="2 of 4 machines"):
        provider_of(config, spot=1, on_demand=1).create_node(node_type, tags, 4)
    assert launched_machines(aws) == ["on demand", "spot"]  # Ray finds them by their tags
    with pytest.raises(NodeLaunchException, match="InsufficientInstanceCapacity"):
        provider_of(config, spot=0, on_demand=0).create_node(node_type, tags, 1)


def test_no_on_demand_fallback_for_other_errors(aws: Any, config: dict[str, Any]) -> None:
    node_type = config["available_node_types"]["gpu"]["node_config"]
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        provider_of(config, 0, 8, "UnauthorizedOperation").create_node(node_type, {}, 1)
    assert launched_machines(aws) == []


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
