"""What a cluster may grow to: the machines that its autoscaler is allowed to start.

`ray up` leaves its configuration on the head, where the study's own process runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")
Node = dict[str, float]


def read_bootstrap_config(path: Path = BOOTSTRAP_CONFIG) -> dict[str, Any] | None:
    """The configuration that `ray up` gave the autoscaler; None where there is none, as on a
    cluster that was started in another way."""
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) and "available_node_types" in content else None


def nodes_at_most(
    connected: Sequence[Node], config: Mapping[str, Any] | None, needed: Sequence[str]
) -> list[Node]:
    """What each node would offer, were the cluster as large as it may become for work that needs
    resources of certain names.

    connected: what the nodes offer that are there now. config: of `ray up`; None means that the
    cluster stays as it is.

    No more nodes than `max_workers` beside the head: first of the types that offer all that is
    `needed`, and of those the ones that the autoscaler prefers. Types whose resources the
    configuration leaves to be found out count by their connected nodes alone.
    """
    if config is None:
        return list(connected)
    head_type = config.get("head_node_type")
    types = [
        (all(one["resources"].get(name) for name in needed), int(one.get("priority", 0)), one)
        for name, one in config["available_node_types"].items()
        if name != head_type and one.get("resources")
    ]
    types.sort(key=lambda entry: entry[:2], reverse=True)
    allowed = int(config.get("max_workers", 0))
    to_come: list[Node] = []
    for _, _, one in types:
        count = min(int(one.get("max_workers", allowed)), allowed - len(to_come))
        offered = {name: float(amount) for name, amount in one["resources"].items()}
        to_come += [dict(offered) for _ in range(count)]
    # Nodes that are there now are among those to come, except the head.
    heads = config["available_node_types"].get(head_type, {}).get("resources", {})
    stays = [node for node in connected if all(name in node for name in heads)] if heads else []
    return stays + (to_come or [node for node in connected if node not in stays])
