"""Machines on AWS: spot ones, and on-demand ones where those are refused. cluster.yaml names it.

Ray's own autoscaler asks again and again for the kind of machine that was refused: only a request
that is never answered makes it try another kind.
"""

from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
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
