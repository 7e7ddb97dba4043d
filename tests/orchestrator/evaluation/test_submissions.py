"""Submissions: which packages are missing, and which are refused."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.evaluation.records import settings
from orchestrator.evaluation.submissions import missing_packages
from orchestrator.study.load import load_study
from orchestrator.study.resolve import ResolvedTrial, check_submission, resolve_trials
from orchestrator.study.study import Study
from pipelines.data.dataset import DatasetError
from pipelines.submission import SubmissionError, pack


def test_a_package_is_missing_until_it_is_recorded(
    study: Study, trials: list[ResolvedTrial]
) -> None:
    run_ids = {trial.name: name for trial, name in zip(trials, ("one", "two"), strict=True)}
    missing = list(missing_packages(study, trials, run_ids, lambda _: {}))
    assert [entry.run_id for entry in missing] == ["one", "two"]
    tags = {
        "protocol": settings(study.config.protocols["windows"]),
        "data": trials[0].dataset.manifest.fingerprint,
        "split": "test",
    }
    known = {"submission-cityscapes": tags}
    assert not list(missing_packages(study, trials, run_ids, lambda _: known))


def test_a_submission_that_no_server_takes_is_refused_before_training(
    study: Study, trials: list[ResolvedTrial], small_streets: Path, cityscapes: Path, tmp_path: Path
) -> None:
    check_submission(study, trials)
    submission = study.config.submission
    assert submission is not None
    absent = replace(
        study, config=replace(study.config, submission=replace(submission, split="all"))
    )
    with pytest.raises(DatasetError, match="no samples in split 'all'; it has train"):
        check_submission(absent, trials)
    file = tmp_path / "streets.yaml"
    text = study.text.replace(str(cityscapes), str(small_streets))
    file.write_text(text.replace("split: test", "split: val"))
    streets = load_study(file)
    with pytest.raises(SubmissionError, match="cityscapes wants 19 classes"):
        check_submission(streets, resolve_trials(streets.trials, "cpu", tmp_path))


def test_a_package_is_the_same_each_time(tmp_path: Path) -> None:
    files = {"b_000000_000019": b"second", "a_000000_000019": b"first"}
    for name in ("one", "two"):
        pack(tmp_path / "deep" / f"{name}.zip", files)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("deep/*")}
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "deep" / "one.zip") as archive:
        assert archive.namelist() == ["a_000000_000019.png", "b_000000_000019.png"]
        assert archive.read("a_000000_000019.png") == b"first"
