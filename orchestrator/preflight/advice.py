"""Suggests fixes for an experiment that failed, as settings of the study file where possible."""

from collections.abc import Callable

from orchestrator.study.resources import Resources
from orchestrator.training.failures import Cause
from pipelines.training.experiment import Experiment
from pipelines.wording import option


def advise(
    cause: Cause, stage: str, experiment: Experiment, resources: Resources, kind: str
) -> str:
    """Return the possible fixes, most likely first.

    stage: of the preflight run in which the experiment failed.
    kind: of the device, `cpu` or `cuda`.
    """
    if cause == "out of memory":
        if stage == "validation" or stage.startswith("protocol"):
            return "; or ".join(_less_validation_memory(experiment))
        return "; or ".join(_less_training_memory(experiment, resources, kind))
    return _OTHER_CAUSES[cause](experiment)


def _less_training_memory(experiment: Experiment, resources: Resources, kind: str) -> list[str]:
    training, (height, width) = experiment.training, experiment.data.crop
    options = []
    if kind == "cuda" and resources.gpus_per_worker < 1:
        options.append("resources.gpus_per_worker: 1, for a whole GPU per worker")
    if kind == "cuda" and training.precision == "fp32":
        options.append("training.precision: bf16")
    workers = 2 * resources.fewest_workers
    if training.batch // training.accumulation % workers == 0:
        images = training.batch // training.accumulation // workers
        options.append(
            f"resources.workers: {workers}, for the same batch with {images} images per worker"
        )
    accumulation = 2 * training.accumulation
    images = training.batch // accumulation
    if training.batch % accumulation == 0 and images >= resources.most_workers:
        options.append(
            f"training.accumulation: {accumulation} (changes the experiment: batch norm then sees "
            f"{images} images at a time)"
        )
    smaller = [side * 3 // 4 // 32 * 32 for side in (height, width)]
    if min(smaller) > 0:
        options.append(f"data.crop: {smaller} (changes the experiment)")
    if kind == "cpu":
        options.append("resources.concurrent_trials: 1, so that trials do not share memory")
    return options


def _less_validation_memory(experiment: Experiment) -> list[str]:
    options = []
    if experiment.evaluation.window is None:
        options.append(
            f"a sliding window, such as window: {list(experiment.data.crop)} (changes the protocol)"
        )
    options.append("smaller scales (changes the protocol)")
    return options


def _more_stable_training(experiment: Experiment) -> str:
    rate = experiment.training.learning_rate
    return (
        f"training.learning_rate: {rate / 2:g} or below, training.warmup_steps, "
        "training.gradient_clip, or training.precision: fp32"
    )


def _repair_data(experiment: Experiment) -> str:
    return (
        f"run orchestrator prepare inspect {experiment.data.dataset}, then prepare the data "
        "set again"
    )


_OTHER_CAUSES: dict[Cause, Callable[[Experiment], str]] = {
    "non-finite loss": _more_stable_training,
    "data": _repair_data,
    "network": lambda _: "fix the network's code: the trial would fail in the same way",
    "checkpoint": lambda _: (
        f"check free space and permissions of the storage ({option('storage')})"
    ),
    "error": lambda _: "see the message above, and its traceback in the log file printed above",
    "GPU fault": lambda _: (
        "look for Xid in the machine's dmesg and for ECC errors in nvidia-smi -q; reset or replace "
        "the GPU, then rerun the command"
    ),
    "preemption": lambda _: "rerun the command: a machine was preempted",
    "lost node": lambda _: "rerun the command: a machine was lost",
    "lost worker": lambda _: (
        "check for the OOM killer; lower resources.concurrent_trials or resources.node_cache_gib"
    ),
}
