"""The experiment behind a checkpoint, with data and weights identified by hash."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pipelines.network.checkpoint import CheckpointError, read_state
from pipelines.network.weight_files import locate_weights, weights_digest
from pipelines.training.experiment import Experiment, experiment_differences

#: Training settings that name a file of weights.
WEIGHTS = ("backbone_weights", "init")


def lineage(
    experiment: Experiment, fingerprint: str, digests: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the experiment in JSON types, with hashes instead of the locations of its inputs.

    fingerprint: of the data set. digests: of the weights, by the setting that names them; None or
    missing if the setting names none.
    """
    described = experiment.as_json()
    described["data"] |= {"dataset": fingerprint}
    described["training"] |= {name: digests.get(name) for name in WEIGHTS}
    return described


def lineage_of_run(
    experiment: Experiment, fingerprint: str, precision: Literal["bf16", "fp32"]
) -> dict[str, Any]:
    """Return the lineage of an experiment that this process is about to train in `precision`.

    Raises:
        WeightsError: a file of weights cannot be read.
    """
    training = replace(experiment.training, precision=precision)
    uris = {name: getattr(training, name) for name in WEIGHTS}
    digests = {name: uri and weights_digest(locate_weights(uri)) for name, uri in uris.items()}
    return lineage(replace(experiment, training=training), fingerprint, digests)


def check_lineage(directory: Path, expected: Mapping[str, Any]) -> None:
    """Check that the checkpoint in `directory` has the lineage `expected`.

    Raises:
        CheckpointError: it cannot be read or belongs to another experiment; the message lists the
            differences.
    """
    recorded = read_state(directory).get("experiment", {})
    differences = experiment_differences(recorded, expected)
    if differences:
        raise CheckpointError(
            f"{directory}: belongs to another experiment: {'; '.join(differences)}"
        )
