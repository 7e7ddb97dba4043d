"""Settings that would help an experiment that failed, in the study file's own keys."""

from collections.abc import Callable

from orchestrator.study.resources import Resources
from orchestrator.training.failures import Cause
from pipelines.training.experiment import Experiment


def advise(
    cause: Cause, stage: str, experiment: Experiment, resources: Resources, kind: str
) -> str:
    """What a person could set, likeliest first. stage: of the rehearsal in which it failed; kind:
    of the device, `cpu` or `cuda`."""
    if cause == "out of memory":
        validating = stage == "validation" or stage.startswith("protocol")
        if validating:
            return "; or ".join(_validation_memory(experiment))
        return "; or ".join(_training_memory(experiment, resources, kind))
    return _OTHERWISE[cause](experiment)


def _training_memory(experiment: Experiment, resources: Resources, kind: str) -> list[str]:
    training, (height, width) = experiment.training, experiment.data.crop
    options = []
    if kind == "cuda" and resources.gpus_per_worker < 1:
        options.append("resources.gpus_per_worker: 1, a whole GPU for each worker")
    if kind == "cuda" and training.precision == "fp32":
        options.append("training.precision: bf16")
    more = 2 * resources.fewest_workers
    if training.batch // training.accumulation % more == 0:
        images = training.batch // training.accumulation // more
        options.append(
            f"resources.workers: {more}, the same batch with {images} images on each worker"
        )
    parts = 2 * training.accumulation
    if training.batch % parts == 0 and training.batch // parts >= resources.most_workers:
        options.append(
            f"training.accumulation: {parts} (batch norm then sees {training.batch // parts} "
            "images at a time: another experiment)"
        )
    smaller = [side * 3 // 4 // 32 * 32 for side in (height, width)]
    if min(smaller) > 0:
        options.append(f"data.crop: {smaller} (another experiment)")
    if kind == "cpu":
        options.append("resources.concurrent_trials: 1, so that trials do not share the memory")
    return options


def _validation_memory(experiment: Experiment) -> list[str]:
    options = []
    if experiment.evaluation.batch > 1:
        options.append("evaluation.batch: 1, which leaves the score as it is")
    if experiment.evaluation.window is None:
        options.append(
            f"a sliding window, such as window: {list(experiment.data.crop)} (another protocol)"
        )
    options.append("smaller scales (another protocol)")
    return options


def _slower(experiment: Experiment) -> str:
    rate = experiment.training.learning_rate
    return (
        f"training.learning_rate: {rate / 2:g} or below, training.warmup_steps, "
        "training.gradient_clip, or training.precision: fp32"
    )


def _data(experiment: Experiment) -> str:
    return f"python -m pipelines.prepare inspect {experiment.data.dataset}, and preparing it again"


_OTHERWISE: dict[Cause, Callable[[Experiment], str]] = {
    "non-finite loss": _slower,
    "data": _data,
    "network": lambda _: "the network's own code: it runs here as it would in the trial",
    "checkpoint": lambda _: "space and permissions where the storage lies (--storage)",
    "error": lambda _: "the message above; the log that the command names holds the traceback",
    "preemption": lambda _: "the command once more: a machine was taken away",
    "lost node": lambda _: "the command once more: a machine was lost",
    "lost worker": lambda _: (
        "a look at the machine's memory: a process that is killed from outside was often too "
        "large (resources.concurrent_trials, a smaller resources.node_cache_gib)"
    ),
}
