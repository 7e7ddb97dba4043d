"""What makes two trials the same trial, and two trainings the work of the same code."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import models
import pipelines
from orchestrator.study.import_closure import import_closure, named_sources, source_files
from pipelines.training.experiment import WITHOUT_EFFECT, Experiment

_TRAINING_LOOP = "pipelines.training.loop"


def trial_identity(
    experiment: Experiment,
    fingerprint: str,
    weights_digest: str | None = None,
    init_digest: str | None = None,
) -> str:
    """64 hexadecimal digits that name what an experiment computes.

    Fields at their default do not count, so that a new field with a default leaves every identity
    as it was; nor do those that change no result (`WITHOUT_EFFECT`). The data set counts by its
    content (`fingerprint`), not by where it lies, and so do the weights that the backbone
    (`weights_digest`) or the whole network starts from (`init_digest`). The precision must be
    resolved (`bf16` or `fp32`) and always counts.
    """
    precision = experiment.training.precision
    if precision == "auto":
        raise ValueError("the precision must be resolved before a trial can be named")
    described = _without_defaults(asdict(experiment), asdict(Experiment()))
    for context in ("data.dataset", *WITHOUT_EFFECT):
        group, _, key = context.partition(".")
        described.get(group, {}).pop(key, None)
    described["data_fingerprint"] = fingerprint
    described["precision"] = precision
    described.get("training", {}).pop("precision", None)
    for key, digest in (("backbone_weights", weights_digest), ("init", init_digest)):
        described.get("training", {}).pop(key, None)
        if digest is not None:
            described[key] = digest
    text = json.dumps(
        {key: value for key, value in described.items() if value != {}}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def code_version(user_code: Sequence[ModuleType] = ()) -> str:
    """16 hexadecimal digits that name the code that computes a result.

    Counted are the sources that importing the training loop reads, the versions of torch and
    kornia, and the sources of `user_code`. Commands, readers and drawings are not: they decide no
    trained result.
    """
    digest = hashlib.sha256()
    for name, path in _computing_sources().items():
        digest.update(f"{name}\0".encode())
        digest.update(path.read_bytes())
    for module in user_code:
        for path in source_files(module):
            digest.update(f"{module.__name__}/{path.name}\0".encode())
            digest.update(path.read_bytes())
    for library in ("torch", "kornia"):
        # Builds of one release for other devices (2.13.0+cpu) count as that release.
        digest.update(f"{library}=={version(library).split('+')[0]}".encode())
    return digest.hexdigest()[:16]


@cache  # reading all imports takes a fifth of a second
def _computing_sources() -> dict[str, Path]:
    """The project's sources that decide a trained result, by module name."""
    found, _ = import_closure([_TRAINING_LOOP], named_sources(models) | named_sources(pipelines))
    return dict(sorted(found.items()))


def _without_defaults(value: Any, default: Any) -> Any:
    if isinstance(value, dict) and isinstance(default, dict):
        kept = {key: _without_defaults(value[key], default.get(key)) for key in value}
        return {
            key: inner
            for key, inner in kept.items()
            if inner != {} and (key not in default or inner != default[key])
        }
    return value
