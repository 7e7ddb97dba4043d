"""Metrics in a study: arguments, keys, user code, and where their names may stand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.study.identity import trial_identity
from orchestrator.study.user_code import modules_of, modules_of_network
from orchestrator.study.yaml_source import StudyError
from pipelines.evaluation.config import MetricConfig
from tests.support.study_files import load, problems

STUDY = """\
study: small
base:
  training: {precision: fp32, epochs: 3}
  evaluation: {metrics: BASE}
variants:
  plain: {}
  other: {set: {training: {epochs: 3}, evaluation: {metrics: OTHER}}}
"""
METRICS = """\
import torch
from pipelines.evaluation.metrics import Metric

class Wrong(Metric):
    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def statistics(self, prediction, labels):
        return torch.tensor([self.factor, 1.0], dtype=torch.float64)

    def score(self, sums):
        return sums[..., 0] / sums[..., 1]
"""


def text(other: str | None = None, base: str = "[]") -> str:
    """Return a study with the metrics `base`, and `other` in one variant if given."""
    return STUDY.replace("OTHER", other or base).replace("BASE", base)


def test_metrics_are_typed_and_part_of_the_identity(
    tmp_path: Path, user_module: Callable[[str, str], Path]
) -> None:
    user_module("own_metrics_of_a_study", METRICS)
    own = "{name: 'own_metrics_of_a_study:Wrong', arguments: {factor: 2}, key: twice}"
    metrics = f"[{{name: boundary_iou}}, {{name: boundary_iou, key: wide}}, {own}]"
    report = "report: {columns: [miou, dice, twice, iou/road, difference/twice]}\n"
    report += "compare_to: plain\n"
    plain, other = load(tmp_path, text(metrics) + report).trials
    assert other.experiment.evaluation.metrics == (
        "boundary_iou",
        MetricConfig("boundary_iou", {}, "wide"),
        MetricConfig("own_metrics_of_a_study:Wrong", {"factor": 2}, "twice"),
    )
    names = ["own_metrics_of_a_study"]
    assert [module.__name__ for module in modules_of(other.experiment, ())] == names
    assert modules_of_network(other.experiment, ()) == []
    none = load(tmp_path, text()).trials[1]
    identities = [trial_identity(t.experiment, "0") for t in (plain, none, other)]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("[boundary]", "`evaluation`: metrics is 'boundary'; known: boundary_f, boundary_iou, cal"),
        ("[dice]", "`evaluation`: metrics is 'dice', which is always computed; remove it"),
        ("boundary_f", '`evaluation.metrics` must be a list, received "boundary_f"'),
        ("[{name: boundary_f, argument: {}}]", "unknown key `evaluation.metrics.0.argument`; did"),
        (
            "[{name: boundary_f, arguments: {pixels: 3}}]",
            "7:63: metric boundary_f: unknown argument `pixels`; known: tolerance",
        ),
        (
            "[{name: boundary_f, arguments: {tolerance: wide}}]",
            '`tolerance` must be a whole number, received "wide"',
        ),
        ("['absent.module:Own']", "metric absent.module:Own: cannot import absent.module"),
        (
            "[{name: boundary_iou, key: hours}]",
            "a metric has the key 'hours', which is a column; set another `key`",
        ),
    ],
)
def test_invalid_metric_is_one_error(tmp_path: Path, metrics: str, message: str) -> None:
    (problem,) = set(problems(tmp_path, text(metrics)))
    assert message in problem


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("report: {columns: [wide]}", "`report.columns` has 'wide', which is not a column"),
        (
            "report: {columns: [difference/wide]}\ncompare_to: plain",
            "'difference/wide', but no trial has the metric 'wide'",
        ),
        ("report: {columns: [difference/dice]}", "'difference/dice', but no row is compared"),
        (
            "kind: search\nearly_stopping: {metric: boundary_iou}",
            "`early_stopping.metric` is 'boundary_iou', which plain does not compute",
        ),
        ("report: {class_groups: {thin: []}}", "class_groups has 'thin' without classes"),
        (
            "protocols: {whole: {metrics: [border]}}",
            "`protocols.whole`: metrics is 'border'; known: boundary_f",
        ),
        (
            "protocols: {whole: {metrics: [{name: boundary_f, arguments: {pixels: 1}}]}}",
            "metric boundary_f: unknown argument `pixels`",
        ),
    ],
)
def test_name_of_an_unknown_metric_is_one_error(tmp_path: Path, more: str, message: str) -> None:
    (problem,) = set(problems(tmp_path, f"{text('[boundary_iou]')}{more}\n"))
    assert message in problem


def test_one_key_with_several_settings_is_not_compared(tmp_path: Path) -> None:
    study = text("[{name: boundary_f, arguments: {tolerance: 5}}]", base="[boundary_f]")
    load(tmp_path, study)
    for columns in ("boundary_f", "boundary_f/road", "difference/boundary_f"):
        more = f"report: {{columns: [{columns}]}}\ncompare_to: plain\n"
        with pytest.raises(StudyError, match="has other settings in other than in plain, so it"):
            load(tmp_path, study + more)


def test_protocols_add_metrics_to_those_of_the_trials(tmp_path: Path) -> None:
    more = """\
protocols:
  whole: {metrics: [calibration_error, {name: boundary_f, arguments: {tolerance: 5}}]}
report: {protocol: whole, columns: [miou, calibration_error]}
"""
    study = load(tmp_path, text("[boundary_f, boundary_iou]") + more)
    configs = [
        study.config.evaluation_under(name, study.trials[1].experiment.evaluation).metric_configs
        for name in (None, "whole")
    ]
    assert [[config.key for config in each] for each in configs] == [
        ["boundary_f", "boundary_iou"],
        ["boundary_iou", "calibration_error", "boundary_f"],
    ]
    assert configs[1][2].arguments == {"tolerance": 5}


@pytest.mark.parametrize("metric", ["miou", "dice", "iou/road", "boundary_iou", "boundary_iou/sky"])
def test_search_is_ranked_by_any_metric_of_the_trials(tmp_path: Path, metric: str) -> None:
    more = f"kind: search\nearly_stopping: {{metric: {metric}}}\n"
    study = load(tmp_path, text(base="[boundary_iou]") + more)
    assert study.config.early_stopping is not None
    assert study.config.early_stopping.metric == metric


def test_search_is_not_ranked_by_classes_of_a_metric_without_them(tmp_path: Path) -> None:
    more = "kind: search\nearly_stopping: {metric: calibration_error/road}\n"
    with pytest.raises(StudyError, match="'calibration_error/road', which plain does not compute"):
        load(tmp_path, text(base="[calibration_error]") + more)
