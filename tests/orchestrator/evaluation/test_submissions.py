"""Submissions: which packages are missing, and which submissions are rejected."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.evaluation.records import protocol_tag
from orchestrator.evaluation.submissions import missing_submissions
from orchestrator.study.load import load_study
from orchestrator.study.resolve import check_submission, resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from pipelines.data.manifest import DatasetError
from pipelines.submission import SubmissionError, pack


def test_package_is_missing_until_recorded(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path
) -> None:
    run_ids = {trial.name: name for trial, name in zip(trials, ("one", "two"), strict=True)}
    missing = list(missing_submissions(study, trials, run_ids, lambda _: {}, tmp_path))
    assert [entry.run_id for entry in missing] == ["one", "two"]
    tags = {
        "protocol": protocol_tag(study.config.protocols["windows"]),
        "data": trials[0].dataset.manifest.fingerprint,
        "split": "test",
    }
    recorded = {"submission-cityscapes": tags}
    assert not list(missing_submissions(study, trials, run_ids, lambda _: recorded, tmp_path))


def test_unacceptable_submission_is_rejected_before_training(
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
    with pytest.raises(SubmissionError, match="cityscapes has 19 classes"):
        check_submission(streets, resolve_trials(streets.trials, "cpu", tmp_path))


def test_packing_is_deterministic(tmp_path: Path) -> None:
    files = {"b_000000_000019": b"second", "a_000000_000019": b"first"}
    for name in ("one", "two"):
        pack(tmp_path / "deep" / f"{name}.zip", files)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("deep/*")}
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "deep" / "one.zip") as archive:
        assert archive.namelist() == ["a_000000_000019.png", "b_000000_000019.png"]
        assert archive.read("a_000000_000019.png") == b"first"
