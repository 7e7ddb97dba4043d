"""Checks that the nodes of a running cluster have what trials need, before any trial starts."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.errors import UserError

# Packages that the workers of a trial import. The versions of the first two are part of a result's
# code version, so every node must have the same.
_PACKAGES = (
    *("torch", "kornia", "numpy", "pillow", "pyarrow", "pydantic", "torchmetrics"),
    *("filelock", "fsspec", "psutil", "pyyaml", "safetensors"),
)
_SAME = _PACKAGES[:2]
_SECONDS = 120.0


class NodeError(UserError, RuntimeError):
    """A node of the cluster cannot run trials."""


def installed_versions(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the versions of the installed packages among `names`, without local labels such as
    `+cu128`, and that of Python."""
    versions = {"Python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            versions[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return versions


def node_problem(node: str, versions: Mapping[str, str], own: Mapping[str, str]) -> str:
    """Return why a node cannot run this command's trials; empty if it can.

    versions, own: see `installed_versions`, of the node and of this process.
    """
    missing = [name for name in own if name not in versions]
    differing = [
        f"{name} {versions[name]} instead of {own[name]}"
        for name in ("Python", *_SAME)
        if name in versions and name in own and versions[name] != own[name]
    ]
    parts = [f"lacks {', '.join(missing)}"] if missing else []
    parts += [f"has {', '.join(differing)}"] if differing else []
    if not parts:
        return ""
    return (
        f"node {node} {' and '.join(parts)}; install this project with constraints.txt in the "
        "environment in which its Ray runs"
    )


def check_nodes() -> list[str]:
    """Compare the packages of all nodes with those of this process; return warnings.

    Raises NodeError if a node lacks a package, or has another version of one that decides results.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0)(installed_versions)
    replies = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    ]
    own = installed_versions()
    for node, reply in zip(nodes, replies, strict=True):
        try:
            versions = ray.get(reply, timeout=_SECONDS)
        except RayError:  # a busy or lost node; its trials report what happens there
            continue
        if problem := node_problem(node["NodeManagerAddress"], versions, own):
            raise NodeError(problem)
    return driver_warnings([node["Resources"] for node in nodes])


def driver_warnings(nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """Return a warning if trials' drivers may run on any of several nodes.

    nodes: the resources of each.
    """
    from orchestrator.scheduling.capacity import DRIVER_RESOURCE  # torch may be missing on a node

    if len(nodes) < 2 or any(DRIVER_RESOURCE in node for node in nodes):
        return []
    option = f"--resources='{{\"{DRIVER_RESOURCE}\":1000000}}'"
    return [
        f"no node has the resource {DRIVER_RESOURCE}, so a trial's driver may run on a node that "
        f"is lost later; start the head with {option}"
    ]
