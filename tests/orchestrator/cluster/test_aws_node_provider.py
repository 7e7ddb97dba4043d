"""Spot machines, and on-demand ones where those are refused: cluster.yaml's own provider on moto's
AWS, driven by Ray's real autoscaler."""

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
    # botocore and moto on themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Capacity:
    """EC2 with so many machines left of each kind. reason: why there are no more spot ones."""

    def __init__(self, provider: AWSNodeProvider, spot: int, on_demand: int, reason: str) -> None:
        self._left = {"spot": spot, "on demand": on_demand}
        self._reason = reason
        self._ec2 = provider.ec2_fail_fast
        provider.ec2_fail_fast = self

    def create_instances(self, **asked: Any) -> list[Any]:
        kind = "spot" if "InstanceMarketOptions" in asked else "on demand"
        given = min(asked["MaxCount"], self._left[kind])
        if given < asked["MinCount"]:
            code = self._reason if kind == "spot" else "InsufficientInstanceCapacity"
            raise ClientError({"Error": {"Code": code, "Message": "refused"}}, "RunInstances")
        self._left[kind] -= given
        # moto gives as many as MinCount says, where EC2 gives as many as it can.
        counts = {"MinCount": given, "MaxCount": given}
        return list(self._ec2.create_instances(**{**asked, **counts}))


@pytest.fixture
def config(aws: Any, aws_config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` leaves on the head."""
    prepared = prepare_config(aws_config)
    provider = _get_node_provider_cls(prepared["provider"])
    return dict(provider.bootstrap_config(prepared))


def provider_of(
    config: dict[str, Any], spot: int, on_demand: int, reason: str = "UnfulfillableCapacity"
) -> AWSNodeProvider:
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    Capacity(provider, spot, on_demand, reason)
    return provider


def machines(aws: Any) -> list[str]:
    """What was started, each as spot or on demand."""
    return sorted(
        one.get("InstanceLifecycle", "on demand")
        for reservation in aws.describe_instances()["Reservations"]
        for one in reservation["Instances"]
    )


@pytest.mark.parametrize(
    ("spot", "started"),
    [
        (8, ["spot", "spot"]),
        (1, ["on demand", "spot"]),
        (0, ["on demand", "on demand"]),
    ],
)
def test_waiting_gangs_get_their_machines(
    aws: Any, config: dict[str, Any], tmp_path: Path, spot: int, started: list[str]
) -> None:
    provider = provider_of(config, spot, on_demand=8)
    autoscale(config, provider, start_head(config, provider), tmp_path, rounds=5)
    assert machines(aws) == sorted(["on demand", *started])


def test_what_nobody_has_is_told(aws: Any, config: dict[str, Any]) -> None:
    kind = config["available_node_types"]["gpu"]["node_config"]
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu"}
    with pytest.raises(NodeLaunchException, match="2 of 4 machines"):
        provider_of(config, spot=1, on_demand=1).create_node(kind, tags, 4)
    assert machines(aws) == ["on demand", "spot"]  # Ray finds them by their tags
    with pytest.raises(NodeLaunchException, match="InsufficientInstanceCapacity"):
        provider_of(config, spot=0, on_demand=0).create_node(kind, tags, 1)


def test_a_mistake_is_not_paid_for_on_demand(aws: Any, config: dict[str, Any]) -> None:
    kind = config["available_node_types"]["gpu"]["node_config"]
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        provider_of(config, 0, 8, "UnauthorizedOperation").create_node(kind, {}, 1)
    assert machines(aws) == []


def test_the_machines_stand_behind_the_rules_of_the_stack(
    aws: Any, aws_config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    # Ray itself would take whatever network has a public part in the region's last zone.
    zone = aws.describe_availability_zones()["AvailabilityZones"][-1]["ZoneName"]
    network = aws.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    new = aws.create_subnet(VpcId=network, CidrBlock="10.0.1.0/24", AvailabilityZone=zone)
    in_zone = [{"Name": "availability-zone", "Values": [zone]}]
    for part in aws.describe_subnets(Filters=in_zone)["Subnets"]:
        public = part["SubnetId"] == new["Subnet"]["SubnetId"]
        aws.modify_subnet_attribute(
            SubnetId=part["SubnetId"], MapPublicIpOnLaunch={"Value": public}
        )
    prepared = prepare_config(aws_config)
    bootstrap = _get_node_provider_cls(prepared["provider"]).bootstrap_config
    kinds = bootstrap(prepared)["available_node_types"]
    groups = {tuple(kind["node_config"]["SecurityGroupIds"]) for kind in kinds.values()}
    named = [{"Name": "group-name", "Values": ["segmentation"]}]
    (made,) = aws.describe_security_groups(Filters=named)["SecurityGroups"]
    assert groups == {(made["GroupId"],)}

    prepared["provider"]["security_group"]["GroupName"] = "elsewhere"
    with pytest.raises(click.ClickException):
        bootstrap(prepared)
    assert "deploy clusters/aws/permissions.yaml" in " ".join(capsys.readouterr().err.split())
