"""Hashes that identify what a trial computes, and the code version that computes it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Return 64 hexadecimal digits that identify what an experiment computes.

    Fields at their default are left out, so that adding a field with a default changes no
    identity; so are fields that do not change the result (`WITHOUT_EFFECT`). The data set is
    identified by its content (`fingerprint`), not by its path, and so are the initial weights of
    the backbone (`weights_digest`) and of the whole network (`init_digest`). The precision must be
    resolved (`bf16` or `fp32`) and is always included. Raises ValueError if it is `auto`.
    """
    precision = experiment.training.precision
    if precision == "auto":
        raise ValueError("the precision must be resolved before computing a trial's identity")
    described = _without_defaults(asdict(experiment), _defaults())
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


def training_name(identity: str, run_id: str) -> str:
    """Return the name of the training of a trial in an MLflow run, and of the folder with its
    checkpoints. A trial whose run was deleted in MLflow therefore starts anew."""
    return f"{identity[:16]}-{run_id}"


def code_version(user_code: Sequence[ModuleType] = (), libraries: Sequence[str] = ()) -> str:
    """Return 16 hexadecimal digits that identify the code that computes a result.

    The hash covers the sources that importing the training loop executes, the versions of torch,
    kornia and `libraries`, and the sources of `user_code`. Commands, dataset readers and plotting
    code are not included, because they do not change a trained result.
    """
    return sources_digest(source_paths(user_code), library_versions(libraries))


def library_versions(libraries: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of torch, kornia and `libraries` that the code version covers."""
    # Builds of one release for different devices (2.13.0+cpu) are the same version.
    return {name: version(name).split("+")[0] for name in ("torch", "kornia", *libraries)}


def sources_digest(files: Iterable[tuple[str, Path]], libraries: Mapping[str, str]) -> str:
    """Return the 16 hexadecimal digits of a code version.

    files: names and paths of the sources. libraries: versions by name.
    """
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\0".encode())
        digest.update(path.read_bytes())
    for library, number in libraries.items():
        digest.update(f"{library}=={number}".encode())
    return digest.hexdigest()[:16]


def user_code_version(user_code: Sequence[ModuleType]) -> str:
    """Return 16 hexadecimal digits that identify the sources of `user_code` alone."""
    return sources_digest(_user_paths(user_code), {})


def source_paths(user_code: Sequence[ModuleType] = ()) -> list[tuple[str, Path]]:
    """Return name and path of the sources that the code version covers."""
    return [*_computing_sources().items(), *_user_paths(user_code)]


def _user_paths(user_code: Sequence[ModuleType]) -> Iterator[tuple[str, Path]]:
    for module in user_code:
        for path in source_files(module):
            yield f"{module.__name__}/{path.name}", path


@cache  # a study may have ten thousand trials
def _defaults() -> dict[str, Any]:
    return asdict(Experiment())


@cache  # parsing all imports takes 0.2 s
def _computing_sources() -> dict[str, Path]:
    """Return the project's sources that a trained result depends on, by module name."""
    sources = named_sources(models) | named_sources(pipelines)
    files, _ = import_closure([_TRAINING_LOOP], sources, with_named=True)
    return dict(sorted(files.items()))


def _without_defaults(value: Any, default: Any) -> Any:
    if isinstance(value, dict) and isinstance(default, dict):
        kept = {key: _without_defaults(value[key], default.get(key)) for key in value}
        return {
            key: inner
            for key, inner in kept.items()
            if inner != {} and (key not in default or inner != default[key])
        }
    return value
