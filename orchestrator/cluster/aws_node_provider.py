"""A node provider for AWS, used by cluster.yaml: spot machines, or on-demand ones if EC2 has none.

It also uses the security group of clusters/aws/permissions.yaml, and starts no more machines after
the set-up of three in a row failed. Ray's own provider would request the refused machine type
forever; its autoscaler tries another type only if a request never returns.
"""

import copy
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider, make_ec2_resource
from ray.autoscaler._private.cli_logger import cli_logger
from ray.autoscaler._private.constants import BOTO_MAX_RETRIES
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import STATUS_UP_TO_DATE, STATUS_UPDATE_FAILED, TAG_RAY_NODE_STATUS

from orchestrator.cluster.refusals import write_refusal

_SPOT = "InstanceMarketOptions"
_NO_SPOT_ROLE = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
# EC2's error codes if spot machines are not available at all, for this account or in the zone tried
# last. Any other error is a mistake, which on-demand machines would only hide.
_NO_SPOT_CAPACITY = (
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
    _NO_SPOT_ROLE,
)
_CAPACITY = "wait, or use another machine type or region"
_QUOTA = "request a higher quota in AWS's Service Quotas"
_ADVICE = {
    "InsufficientInstanceCapacity": _CAPACITY,
    "UnfulfillableCapacity": _CAPACITY,
    "MaxSpotInstanceCountExceeded": f"{_QUOTA} ('All G and VT Spot Instance Requests')",
    "VcpuLimitExceeded": f"{_QUOTA} ('Running On-Demand G and VT instances')",
    "Unsupported": "the zone tried last lacks the type; `ray monitor cluster.yaml` shows what the "
    "other zones answered, such as a quota of 0",
    "UnauthorizedOperation": "add the type to `Machines` of clusters/aws/permissions.yaml's stack",
    _NO_SPOT_ROLE: "an administrator runs `aws iam create-service-linked-role --aws-service-name "
    "spot.amazonaws.com` once",
}
_FAILED_SETUPS = 3


class SpotFirst(AWSNodeProvider):
    """Ray's AWS provider, with on-demand machines in place of unavailable spot machines.

    `on_demand_fallback: false` in the provider's section disables that.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._failed_setups: set[str] = set()  # since the last one that succeeded

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Return the cluster configuration completed by Ray.

        Node types, or their network interfaces, without security group get the one named in the
        provider's section, and thereby its network. Ray alone would create a group that opens port
        22 to every address.
        """
        config = copy.deepcopy(cluster_config)
        incomplete = [
            (part, key)
            for node_type in config["available_node_types"].values()
            for part, key in _security_group_keys(node_type["node_config"])
            if key not in part
        ]
        if incomplete:
            group = _security_group(config["provider"])
            for part, key in incomplete:
                part[key] = [group]
        return dict(AWSNodeProvider.bootstrap_config(config))

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Set a machine's tags, and count failed set-ups."""
        status = tags.get(TAG_RAY_NODE_STATUS)
        if status == STATUS_UPDATE_FAILED:
            if self.is_terminated(node_id):  # reclaimed meanwhile; Ray tries a set-up three times
                self._failed_setups.discard(node_id)
            else:
                self._failed_setups.add(node_id)
        elif status == STATUS_UP_TO_DATE:
            self._failed_setups.clear()
        super().set_node_tags(node_id, tags)

    def _create_node(
        self, node_config: Mapping[str, Any], tags: Mapping[str, str], count: int
    ) -> dict[str, Any]:
        """Start `count` machines. Return them by id, and report a refusal to the studies."""
        try:
            started = self._spot_or_on_demand(node_config, tags, count)
        except NodeLaunchException as refusal:
            advice = _ADVICE.get(refusal.category)
            description = f"{refusal.description}; {advice}" if advice else refusal.description
            machine = node_config.get("InstanceType")
            write_refusal(f"{machine}: {refusal.category}: {description}")
            raise NodeLaunchException(
                refusal.category, description, refusal.src_exc_info
            ) from refusal
        write_refusal("")
        return started

    def _spot_or_on_demand(
        self, node_config: Mapping[str, Any], tags: Mapping[str, str], count: int
    ) -> dict[str, Any]:
        """Start `count` machines. Return them by id.

        Raises NodeLaunchException if fewer could be started, or if the set-up of the last machines
        failed. Ray then finds the started ones by their tags and requests the others again.
        """
        if len(self._failed_setups) >= _FAILED_SETUPS:
            raise NodeLaunchException(
                "SetupFailed",
                f"the set-up of the last {len(self._failed_setups)} machines failed, so no more "
                "are started; find the cause with `ray monitor cluster.yaml` and run `ray up "
                "cluster.yaml` again",
                None,
            )
        started: dict[str, Any] = {}
        if _SPOT in node_config:
            refusal = self._create_all(node_config, tags, count, started)
            if refusal is not None:
                if refusal.category not in _NO_SPOT_CAPACITY:
                    raise refusal
                if not self.provider_config.get("on_demand_fallback", True):
                    raise refusal
                cli_logger.warning(
                    "{} of {} machines are started on demand, at the full price: no spot machines "
                    "({}: {})",
                    count - len(started),
                    count,
                    refusal.category,
                    refusal.description,
                )
        on_demand = {key: value for key, value in node_config.items() if key != _SPOT}
        refusal = self._create_all(on_demand, tags, count, started)
        if refusal is not None:
            raise NodeLaunchException(
                refusal.category,
                f"only {len(started)} of {count} machines could be started: {refusal.description}",
                refusal.src_exc_info,
            )
        return started

    def _create_all(
        self,
        node_config: Mapping[str, Any],
        tags: Mapping[str, str],
        count: int,
        started: dict[str, Any],
    ) -> NodeLaunchException | None:
        """Add machines to `started` until it has `count`, or until all zones refuse; return the
        last zone's refusal.

        A zone may grant some of the machines. Ray then regards the request as fulfilled and tries
        no other zone.
        """
        while len(started) < count:
            try:
                started |= super()._create_node(node_config, tags, count - len(started))
            except NodeLaunchException as refusal:
                return refusal
        return None


def _security_group_keys(node_config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return the parts of a node configuration that have security groups, and their key there.

    They must be at the network interfaces if there are any, as for EFA.
    """
    interfaces = node_config.get("NetworkInterfaces")
    if interfaces is None:
        return [(node_config, "SecurityGroupIds")]
    return [(interface, "Groups") for interface in interfaces]


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
