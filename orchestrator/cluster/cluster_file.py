"""A cluster that is not running: the machines that a file of `ray up` may start, for `--plan`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from orchestrator.cluster.address import ClusterFileError
from orchestrator.cluster.aws_prices import is_on_aws
from orchestrator.cluster.cluster import Cluster
from orchestrator.scheduling.capacity import MachineType, Placement
from orchestrator.scheduling.launch import Launch
from orchestrator.scheduling.policy import Node
from orchestrator.study.resources import Resources
from pipelines.wording import option

# Keys of a cluster file that a plan reads.
_PLANNED = (
    *("provider", "available_node_types", "head_node_type", "max_workers"),
    *("idle_timeout_minutes", "metadata"),
)


class ClusterFile(Cluster):
    """The cluster that `ray up` would start from a file. Planning with it starts nothing.

    Raises ClusterFileError if the file does not describe a cluster with an autoscaler.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, {})
        try:
            config = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ClusterFileError(
                f"{option('address')} {path}: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(config, dict) or "available_node_types" not in config:
            raise ClusterFileError(
                f"{option('address')} {path} has no `available_node_types`, so its machines are "
                "unknown; use a file such as cluster.yaml, or the address of a running cluster"
            )
        if problem := _problem(config):
            raise ClusterFileError(
                f"{option('address')} {path}: {problem}, so `ray up` cannot use this file"
            )
        self._config: dict[str, Any] = config
        head = config["available_node_types"][config["head_node_type"]]
        self._head: list[Node] = [
            {name: float(amount) for name, amount in head.get("resources", {}).items()}
        ]

    def offers(self, resources: Resources) -> tuple[list[Node], list[MachineType]]:
        """Return the nodes at full size, and the machine types, best for these workers first."""
        from orchestrator.cluster import autoscaler  # Ray takes seconds to import

        needed = resources.needed()
        return (
            autoscaler.nodes_at_full_size(self._head, self._config, needed),
            autoscaler.machine_types(self._config, needed),
        )

    def device(self, resources: Resources, placement: Placement) -> str:
        """Return an empty name: no node is up."""
        return ""

    def launch(self, placement: Placement, trials: int) -> Launch:
        """Return the machines for this number of trials, their price, and what the account would
        refuse."""
        from orchestrator.cluster import autoscaler
        from orchestrator.cluster.aws_account import check_account

        launch = autoscaler.launch(self._head, self._config, placement, trials)
        if launch.price is None:
            return launch
        check = check_account(self._config, launch.machines)
        return replace(launch, obstacles=tuple(check.obstacles), remarks=tuple(check.remarks()))

    def start(self) -> None:
        """Raise ClusterFileError: a file is not a running cluster."""
        raise ClusterFileError(f"run `ray up {self._address}` first")


def _problem(config: Mapping[str, Any]) -> str:
    """Return what is wrong with the parts of a cluster file that a plan reads; empty if nothing."""
    from jsonschema import Draft7Validator  # needed for `--plan` with a file only

    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    parts = {key: config[key] for key in _PLANNED if key in config}
    for error in Draft7Validator(schema).iter_errors({"cluster_name": "any", **parts}):
        # Ray fills in the resources of machines of a cloud.
        if not (error.validator == "required" and "resources" in error.message):
            keys = ".".join(map(str, error.absolute_path))
            return f"{keys}: {shorten(error.message, 120)}" if keys else error.message
    types = config["available_node_types"]
    if config.get("head_node_type") not in types:
        return f"head_node_type is {config.get('head_node_type')!r}, not one of {', '.join(types)}"
    if not is_on_aws(config):
        return ""
    if "region" not in config["provider"]:
        return "provider has no region"
    for name, each in types.items():
        if not isinstance(each["node_config"].get("InstanceType"), str):
            return f"available_node_types.{name}.node_config has no InstanceType"
    return ""
