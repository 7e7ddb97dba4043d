"""`folds` of a study: its trials, their names and identities, and wrong values."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.planning.forecast import priorities
from orchestrator.planning.preflight_choice import distinct
from orchestrator.study.resolve import resolve_trials
from orchestrator.tracking.descriptions import run_name
from pipelines.data.manifest import DatasetError
from pipelines.training.experiment import Experiment, read_experiment
from pipelines.training.experiment import experiment_differences as differences
from tests.support.study_files import load, problems

STUDY = """\
study: small
base:
  data: {crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants: {a: {}, b: {set: {model: {flows: []}}}}
compare_to: a
"""


def test_every_fold_of_every_seed_is_a_trial(tmp_path: Path) -> None:
    study = load(tmp_path, f"{STUDY}seeds: [3, 1]\nfolds: 4\n")
    expected = itertools.product("ab", [3, 1], range(4))
    names = [f"{variant}, seed {seed}, fold {fold}" for variant, seed, fold in expected]
    assert [trial.name for trial in study.trials] == names
    assert study.config.repetitions == tuple(itertools.product([3, 1], range(4)))
    trial = study.trials[5]
    assert trial.repetition == (1, 1)
    data = trial.experiment.data
    assert (data.trained_on, data.validation_split, data.folds, data.fold) == (
        *("train:without-fold-1-of-4", "train:fold-1-of-4"),
        *(4, 1),
    )
    one_seed = load(tmp_path, f"{STUDY}folds: {{count: 2, by: image}}\n", only=["a,*"])
    assert [trial.name for trial in one_seed.trials] == ["a, fold 0", "a, fold 1"]
    assert one_seed.trials[0].experiment.data.validation_split == "train:fold-0-of-2-by-image"
    chosen = load(tmp_path, STUDY, only=["*fold 2"], overrides=[("folds", "3")])
    assert [trial.name for trial in chosen.trials] == ["a, fold 2", "b, fold 2"]


def test_folds_are_part_of_the_identity_only_if_used(tmp_path: Path, small_streets: Path) -> None:
    text = STUDY.replace("data: {", f"data: {{dataset: {small_streets}, ")
    plain = resolve_trials(load(tmp_path, text).trials, "cpu", tmp_path)
    trials = []
    for count in (2, 3):
        study = load(tmp_path, f"{text}folds: {count}\n")
        trials += resolve_trials(study.trials, "cpu", tmp_path)
    assert len({trial.identity for trial in (*plain, *trials)}) == 2 + 4 + 6
    assert run_name(trials[1]) == "a, dfnet1, streets, seed 0, fold 1"
    images = len(trials[0].dataset.split("train"))
    assert [trial.duration.steps < plain[0].duration.steps for trial in trials[:1]] == [True]
    assert len(trials[0].dataset.split(trials[0].experiment.data.trained_on)) == images // 2
    # One preflight run covers the folds of a variant, and the first fold is trained first.
    assert len(distinct(trials[:4], {})) == 2
    first = priorities(study.config, trials[4:])
    early = [trial.name for trial in trials[4:] if first[trial.identity] == 0]
    assert early == ["a, fold 0", "b, fold 0"]


def test_an_experiment_without_folds_is_that_of_older_code(tmp_path: Path) -> None:
    recorded = Experiment().as_json()
    for key in ("folds", "fold", "fold_by"):
        del recorded["data"][key]
    assert differences(recorded, Experiment().as_json()) == []
    folds = Experiment(data=replace(Experiment().data, folds=2, fold=1))
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(folds.as_json()))
    assert read_experiment(path) == folds
    path.write_text("data: {folds: 2, fold: 1}")
    assert read_experiment(path) == folds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("folds: 1", "study.yaml:8:1: `folds` must be at least 2 and at most 1000, received 1"),
        ("folds: {count: 0}", "count must be at least 2 and at most 1000, received 0"),
        ("folds: 1000000", "`folds` must be at least 2 and at most 1000, received 1000000"),
        ("folds: {count: 3, by: city}", "folds.by"),
        ("grid: {data.fold: [0, 1]}", "list folds under `folds`, not as an axis of the grid"),
        ("when: [{if: {data.fold: 0}, set: {seed: 1}}]", "set folds under `folds` of the study"),
        ("folds: 2\nkind: profile", "`folds` needs trained models, but `kind: profile` trains"),
        (
            "folds: 2\nkind: search\nearly_stopping: {}",
            "`early_stopping` cannot be used with `folds`, because it would compare scores on",
        ),
    ],
)
def test_wrong_folds_are_reported(tmp_path: Path, change: str, message: str) -> None:
    assert message in "\n".join(problems(tmp_path, f"{STUDY}{change}\n"))


def test_folds_replace_the_validation_split(tmp_path: Path) -> None:
    for key in ("validation_split: null", "fold: 1, folds: 5"):
        text = STUDY.replace("data: {", f"data: {{{key}, ")
        message = "\n".join(problems(tmp_path, f"{text}folds: 2\n"))
        if "fold: 1" in key:
            assert message.count("set folds under `folds` of the study, not in an experiment") == 2
        else:
            assert "study.yaml:8:1: `folds` of a: validation_split must be left out" in message


def test_too_many_folds_for_the_groups_are_reported(tmp_path: Path, cityscapes: Path) -> None:
    text = STUDY.replace("data: {", f"data: {{dataset: {cityscapes}, ")
    study = load(tmp_path, f"{text}folds: 2\n")
    message = r"a, fold 0 and 3 more: .*'train' has 1 group, too few for 2"
    with pytest.raises(DatasetError, match=message):
        resolve_trials(study.trials, "cpu", tmp_path)
