"""What a training's result is of: its experiment, with content in place of names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pipelines.network.checkpoint import CheckpointError, read_state
from pipelines.network.weights import weights_digest, weights_in
from pipelines.training.experiment import Experiment, differences

#: Settings of a training that name files of weights.
WEIGHTS = ("backbone_weights", "init")


def origin(
    experiment: Experiment, fingerprint: str, digests: Mapping[str, str | None]
) -> dict[str, Any]:
    """The experiment as JSON has it, with what its data and weights are in place of where they lie.

    fingerprint: of the data set. digests: of the files of weights, by the setting that names them;
    None, or none, where it names no file.
    """
    described = experiment.as_json()
    described["data"] |= {"dataset": fingerprint}
    described["training"] |= {name: digests.get(name) for name in WEIGHTS}
    return described


def lineage_of_run(
    experiment: Experiment, fingerprint: str, precision: Literal["bf16", "fp32"]
) -> dict[str, Any]:
    """The same of an experiment that is about to be trained by this process, in `precision`.

    Raises WeightsError where a file of weights cannot be read.
    """
    training = replace(experiment.training, precision=precision)
    places = {name: getattr(training, name) for name in WEIGHTS}
    digests = {name: place and weights_digest(weights_in(place)) for name, place in places.items()}
    return origin(replace(experiment, training=training), fingerprint, digests)


def check_lineage(directory: Path, own: Mapping[str, Any]) -> None:
    """Make sure that the checkpoint in `directory` has the origin `own`. Raises CheckpointError
    with the differences."""
    found = differences(read_state(directory).get("experiment", {}), own)
    if found:
        raise CheckpointError(f"{directory}: belongs to another experiment: {'; '.join(found)}")
