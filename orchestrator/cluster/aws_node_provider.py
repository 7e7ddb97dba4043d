"""Machines on AWS: spot ones, and on-demand ones where those are refused; behind the network rules
of clusters/aws/permissions.yaml. cluster.yaml names it.

Ray's own autoscaler asks again and again for the kind of machine that was refused: only a request
that is never answered makes it try another kind.
"""

import copy
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider, make_ec2_resource
from ray.autoscaler._private.cli_logger import cli_logger
from ray.autoscaler._private.constants import BOTO_MAX_RETRIES
from ray.autoscaler.node_launch_exception import NodeLaunchException

_SPOT = "InstanceMarketOptions"
# What EC2 answers where there are no spot machines, no more for this account, or none in the zone
# that was tried last. Any other refusal is a mistake, which on-demand machines would only hide.
_REFUSALS = (
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
)


class SpotFirst(AWSNodeProvider):
    """Ray's AWS provider, which starts on demand what AWS does not give of spot machines."""

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The cluster file with what Ray finds out for it. Machines that name no security group get
        the one that the provider's section names, and its network: Ray itself would look in one
        network of the region, and make a group there whose port 22 is open to every address."""
        config = copy.deepcopy(cluster_config)
        kinds = [kind["node_config"] for kind in config["available_node_types"].values()]
        if lacking := [kind for kind in kinds if "SecurityGroupIds" not in kind]:
            group = _security_group(config["provider"])
            for kind in lacking:
                kind["SecurityGroupIds"] = [group]
        return dict(AWSNodeProvider.bootstrap_config(config))

    def _create_node(
        self, node_config: Mapping[str, Any], tags: Mapping[str, str], count: int
    ) -> dict[str, Any]:
        """`count` machines by their ids. Raises NodeLaunchException where there are fewer; Ray then
        finds those that there are by their tags, and asks for the others again."""
        on_demand = {key: value for key, value in node_config.items() if key != _SPOT}
        made: dict[str, Any] = {}
        for config in [node_config, on_demand] if _SPOT in node_config else [on_demand]:
            try:
                made |= super()._create_node(config, tags, count - len(made))
            except NodeLaunchException as refusal:
                if _SPOT not in config or refusal.category not in _REFUSALS:
                    raise
            if len(made) == count:
                return made
        told = f"{len(made)} of {count} machines were given"
        raise NodeLaunchException("InsufficientInstanceCapacity", told, None)


def _security_group(provider: Mapping[str, Any]) -> str:
    """By its name, which is to be found once in the region."""
    name = provider.get("security_group", {}).get("GroupName", "segmentation")
    region = provider["region"]
    ec2 = make_ec2_resource(region, BOTO_MAX_RETRIES, provider.get("aws_credentials"))
    named = [{"Name": "group-name", "Values": [name]}]
    found = [str(group.id) for group in ec2.security_groups.filter(Filters=named)]
    if len(found) != 1:
        cli_logger.abort(
            "{} security groups of {} are called {}, and it must be one: deploy "
            "clusters/aws/permissions.yaml in that region (docs/aws.md), or give each node "
            "type `SecurityGroupIds`.",
            len(found) or "No",
            region,
            name,
        )
    return found[0]
