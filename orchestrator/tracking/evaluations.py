"""Records later evaluations of finished runs: their metrics, files and tags."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.tracking import tags as tag
from orchestrator.tracking.datasets import DatasetKey
from orchestrator.tracking.store import TrackingStore
from pipelines.data.manifest import metric_name


def log_evaluation(
    store: TrackingStore,
    run_id: str,
    name: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    files: Path,
    dataset: DatasetKey | None = None,
    of_model: bool = True,
) -> None:
    """Record a later evaluation of a finished run: metrics and files under `eval/NAME/`, tags
    under `orchestrator.eval.NAME.`. Evaluations with other names do not change.

    dataset: the one it was evaluated on. of_model: whether the run's model was evaluated, which
    then has the metrics too.
    """
    settings = {f"{tag.EVALUATION}{name}.{key}": value for key, value in tags.items()}
    # Without tags, the evaluation is incomplete while its metrics and files are written.
    store.set_tags(run_id, dict.fromkeys(settings, ""))
    prefixed = {f"eval/{name}/{metric}": value for metric, value in metrics.items()}
    model_id = store.model_id(run_id) if of_model else None
    store.log_metrics(run_id, prefixed, _next_step(store, run_id, prefixed), model_id, dataset)
    store.client.log_artifacts(run_id, str(files), f"eval/{name}")
    store.set_tags(run_id, settings)


def _next_step(store: TrackingStore, run_id: str, metrics: Iterable[str]) -> int:
    """Return the first step that the first of `metrics` does not have yet.

    MLflow shows the value of the highest step; within one step it compares times, and the
    clocks of two machines differ.
    """
    names = [metric_name(name) for name in metrics][:1]
    steps = [m.step for name in names for m in store.client.get_metric_history(run_id, name)]
    return max(steps, default=-1) + 1
