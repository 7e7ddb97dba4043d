"""A node provider for AWS, used by cluster.yaml: spot machines, or on-demand ones if EC2 has none.

It also uses the security group of clusters/aws/permissions.yaml. Ray's own provider would request
the refused machine type forever; its autoscaler tries another type only if a request never returns.
"""

import copy
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider, make_ec2_resource
from ray.autoscaler._private.cli_logger import cli_logger
from ray.autoscaler._private.constants import BOTO_MAX_RETRIES
from ray.autoscaler.node_launch_exception import NodeLaunchException

_SPOT = "InstanceMarketOptions"
# EC2's error codes if spot machines are not available at all, for this account or in the zone tried
# last. Any other error is a mistake, which on-demand machines would only hide.
_NO_SPOT_CAPACITY = (
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
)


class SpotFirst(AWSNodeProvider):
    """Ray's AWS provider, with on-demand machines in place of unavailable spot machines."""

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Return the cluster configuration completed by Ray.

        Node types without security group get the one named in the provider's section, and thereby
        its network. Ray alone would create a group that opens port 22 to every address.
        """
        config = copy.deepcopy(cluster_config)
        node_configs = [one["node_config"] for one in config["available_node_types"].values()]
        if incomplete := [one for one in node_configs if "SecurityGroupIds" not in one]:
            group = _security_group(config["provider"])
            for node_config in incomplete:
                node_config["SecurityGroupIds"] = [group]
        return dict(AWSNodeProvider.bootstrap_config(config))

    def _create_node(
        self, node_config: Mapping[str, Any], tags: Mapping[str, str], count: int
    ) -> dict[str, Any]:
        """Start `count` machines. Return them by id.

        Raises NodeLaunchException if fewer could be started. Ray then finds the started ones by
        their tags and requests the others again.
        """
        on_demand = {key: value for key, value in node_config.items() if key != _SPOT}
        started: dict[str, Any] = {}
        for config in [node_config, on_demand] if _SPOT in node_config else [on_demand]:
            try:
                started |= super()._create_node(config, tags, count - len(started))
            except NodeLaunchException as error:
                if _SPOT not in config or error.category not in _NO_SPOT_CAPACITY:
                    raise
            if len(started) == count:
                return started
        message = f"only {len(started)} of {count} machines could be started"
        raise NodeLaunchException("InsufficientInstanceCapacity", message, None)


def _security_group(provider: Mapping[str, Any]) -> str:
    """Return the id of the security group that the provider's section names."""
    name = provider.get("security_group", {}).get("GroupName", "segmentation")
    region = provider["region"]
    ec2 = make_ec2_resource(region, BOTO_MAX_RETRIES, provider.get("aws_credentials"))
    by_name = [{"Name": "group-name", "Values": [name]}]
    ids = [str(group.id) for group in ec2.security_groups.filter(Filters=by_name)]
    if len(ids) != 1:
        cli_logger.abort(
            "{} security groups in {} are called {}, but there must be exactly one: deploy "
            "clusters/aws/permissions.yaml in that region (docs/aws.md), or give each node "
            "type `SecurityGroupIds`.",
            len(ids) or "No",
            region,
            name,
        )
    return ids[0]
