"""What is looked at before a study leaves this machine for a cluster: that the machines there see
what it names, and that it carries no keys."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from orchestrator.address import RemoteError
from orchestrator.cells import EMBEDDED
from orchestrator.study import Plan
from pipelines.storage import check_no_secret

_LEDGER_URIS = ("runs:/", "models:/")


def check_departure(plan: Plan, arguments: Sequence[str]) -> None:
    """Raises RemoteError for places that only this machine sees, DatasetError for a key or password
    in an address.

    arguments: the command line's that go with the study.
    """
    for text in (*_strings(yaml.safe_load(plan.resolved)), *arguments):
        check_no_secret(text)
    found: dict[str, set[str]] = {}
    for trial in plan.trials:
        training = trial.experiment.training
        for key, place in (
            ("data.dataset", trial.experiment.data.dataset),
            ("training.backbone_weights", training.backbone_weights),
            ("training.init", training.init),
        ):
            if place is not None and _is_local(place):
                found.setdefault(key, set()).add(place)
    if found:
        raise RemoteError("\n".join(_told(key, sorted(found[key])) for key in found))


def _is_local(place: str) -> bool:
    """Whether a place is a path that means another thing, or nothing, on another machine."""
    everywhere = place == EMBEDDED or "://" in place or place.startswith(_LEDGER_URIS)
    return not everywhere and not PurePosixPath(place).is_absolute()


def _told(key: str, places: Sequence[str]) -> str:
    there = [f"s3://BUCKET/{place.lstrip('./~')}" for place in places]
    # With several, one value of the command line would win over what the study says of each.
    how = f"--set {key}={there[0]}" if len(there) == 1 else f"{', '.join(there)} in the study file"
    return (
        f"{key}: the cluster's machines do not see {', '.join(places)}, a path of this machine; "
        f"put what is there into the bucket, or where all see it, and name that place: {how}"
    )


def _strings(value: Any) -> Iterator[str]:
    """All that is text in a document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
