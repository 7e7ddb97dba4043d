"""Checks of the metrics that a study names: in the columns of its report, and for a search."""

from collections.abc import Iterator, Sequence

from orchestrator.study.config import StudyConfig
from orchestrator.study.report_options import OTHER_METRICS, SCORE_LABELS, TABLE_COLUMNS
from orchestrator.study.study import Trial
from orchestrator.study.yaml_source import Problem, Source
from pipelines.evaluation.config import COUNTED, METRICS, EvaluationConfig
from pipelines.wording import suggestion

# Metrics by key: their different settings, each with the name of a trial.
_Settings = dict[str, dict[str, str]]


def check_metrics(config: StudyConfig, trials: Sequence[Trial], source: Source) -> list[Problem]:
    """Return the names in `report.columns`, `early_stopping` and `samples` that are no metric of
    the trials, and the metrics that have different settings under one name.

    trials: all of the study's; empty if it has other problems.
    """
    protocol = config.report.protocol if config.report.protocol in config.protocols else None
    shown = _settings(config, trials, protocol)
    problems = [*_compared_columns(config, source), *_columns(config, shown, source)]
    if trials:
        problems += [
            *_unknown_columns(config, shown, source),
            *_same_keys(config, shown, _settings(config, trials, None), source),
            *_objectives(config, trials, source),
        ]
    return list(dict.fromkeys(problems))


def _settings(config: StudyConfig, trials: Sequence[Trial], protocol: str | None) -> _Settings:
    settings: _Settings = {}
    for trial in trials:
        evaluation = config.evaluation_under(protocol, trial.experiment.evaluation)
        for metric in evaluation.metric_configs:
            settings.setdefault(metric.key, {}).setdefault(repr(metric), trial.name)
    return settings


def _same_keys(
    config: StudyConfig, shown: _Settings, trained: _Settings, source: Source
) -> Iterator[Problem]:
    """Yield the metrics that are compared although their settings differ."""
    names = [(name.removeprefix("difference/"), shown) for name in config.report.columns or ()]
    names += [(name, trained) for name in objectives(config).values()]
    for name, settings in names:
        trials = list(settings.get(name.split("/")[0], {}).values())
        if len(trials) > 1:
            message = (
                f"metric {name!r} has other settings in {trials[1]} than in {trials[0]}, so it "
                "cannot be compared; set another `key`"
            )
            yield Problem(source.location(("base", "evaluation", "metrics")), message)


def _compared_columns(config: StudyConfig, source: Source) -> Iterator[Problem]:
    """Yield the columns of comparisons in a study without any."""
    if config.kind == "table" and any(map(config.compared_to, config.variants)):
        return
    for index, name in enumerate(config.report.columns or ()):
        if name.split("/")[0] in ("compared_to", "difference", "p"):
            message = f"`report.columns` has {name!r}, but no row is compared"
            location = source.location(("report", "columns", index))
            yield Problem(location, f"{message}; set `compare_to` in a study of `kind: table`")


def _columns(config: StudyConfig, shown: _Settings, source: Source) -> Iterator[Problem]:
    """Yield columns whose names have an empty part, and metrics that are named like a column."""
    for key in shown:
        if key in (*TABLE_COLUMNS, *OTHER_METRICS):
            message = f"a metric has the key {key!r}, which is a column; set another `key`"
            yield Problem(source.location(("base", "evaluation", "metrics")), message)
    for index, name in enumerate(config.report.columns or ()):
        if not all(part.strip() for part in name.split("/")):
            message = f"`report.columns` has {name!r}, which lacks a name before or after the slash"
            location = source.location(("report", "columns", index))
            yield Problem(location, f"{message}; write a metric's full name, such as `iou/CLASS`")


def _unknown_columns(config: StudyConfig, shown: _Settings, source: Source) -> Iterator[Problem]:
    """Yield requested columns that no run can have; names with a slash are metrics of the runs."""
    scores = dict.fromkeys(n for n in (*SCORE_LABELS, *shown) if n not in ("iou", "miou"))
    columns = [*TABLE_COLUMNS, *scores, *OTHER_METRICS]
    compared = [name for name in (*COUNTED, *shown) if name != "miou"]
    for index, name in enumerate(config.report.columns or ()):
        location = source.location(("report", "columns", index))
        if name in ("latency_ms", "inference_memory_gib") and config.latency is None:
            message = f"`report.columns` has {name!r}, but the study does not measure it"
            yield Problem(location, f"{message}; set `latency`")
        kind, _, metric = name.partition("/")
        if "/" not in name and name not in columns:
            message = f"`report.columns` has {name!r}, which is not a column"
            yield Problem(location, f"{message}; {suggestion(name, columns)}")
        elif kind == "difference" and metric not in ("", *compared) and metric[:4] != "iou/":
            message = f"`report.columns` has {name!r}, but no trial has the metric {metric!r}"
            yield Problem(location, f"{message}; {suggestion(metric, compared)}")


def objectives(config: StudyConfig) -> dict[str, str]:
    """Return the metrics that a search compares trials by, by the key that names them."""
    names = {}
    if config.early_stopping is not None:
        names["early_stopping"] = config.early_stopping.metric
    if config.sampling is not None:
        names["samples"] = config.sampling.metric
    return names


def _objectives(config: StudyConfig, trials: Sequence[Trial], source: Source) -> Iterator[Problem]:
    """Yield a problem for each objective that some trial does not compute while it trains."""
    for name, metric in objectives(config).items():
        kind, _, class_name = metric.partition("/")
        for trial in trials:
            if trial.experiment.data.validation_split is None:
                message = f"`{name}` compares scores, but {trial.name} has no validation split"
                location = source.location((name,))
                yield Problem(location, f"{message}; set `data.validation_split`")
                break
            own = {each.key: each for each in trial.experiment.evaluation.metric_configs}
            known = [*COUNTED, *own]
            has_classes = kind == "iou" or (kind in own and _has_classes(own[kind].name))
            if metric not in known and not (class_name and has_classes):
                message = f"`{name}.metric` is {metric!r}, which {trial.name} does not compute"
                location = source.location((name, "metric"))
                yield Problem(location, f"{message}; {suggestion(metric, known)}")
                break


def higher_is_better(evaluation: EvaluationConfig, metric: str) -> bool:
    """Return whether a high score in a metric of an evaluation is a good one."""
    key = metric.split("/")[0]
    own = [each for each in evaluation.metric_configs if each.key == key]
    if key in (*COUNTED, "iou") or not own:
        return True
    from pipelines.evaluation.measuring import metric_class  # needs torch

    return metric_class(own[0]).higher_is_better


def _has_classes(metric: str) -> bool:
    """Whether a metric, by name, has scores of classes."""
    from pipelines.evaluation.metrics import ClassMetric  # needs pyarrow

    return issubclass(METRICS.find(metric), ClassMetric)
