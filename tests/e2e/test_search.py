"""A search by TPE from its start to the table that takes its best samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.proposals import propose
from orchestrator.report.__main__ import main as report
from orchestrator.study.load import load_study
from orchestrator.study.sampling import SearchSample, random_sample
from tests.support.sweep_command import runs, sweep

SEARCH = """
kind: search
sample:
  training.learning_rate: {log: [1e-3, 0.1]}
  data.augmentation.hue: {uniform: [0, 0.3]}
samples: {count: 4, method: tpe, startup: 2, round: 1}
report: {figures: []}
"""


def samples_in(trials: dict[str, Any], variant: str) -> dict[int, tuple[SearchSample, float]]:
    """Return the samples of a row in the tracking store, with their scores."""
    samples = {}
    for run in trials.values():
        tags = run.data.tags
        if tags["orchestrator.variant"] == variant:
            values = json.loads(tags["orchestrator.sample_values"])
            number = int(tags["orchestrator.sample"])
            samples[number] = SearchSample(number, values), run.data.metrics["val/miou"]
    return samples


@pytest.mark.slow
def test_later_samples_come_from_the_scores_of_earlier_ones(study: Path) -> None:
    text = study.read_text().replace("compare_to: strong\n", "").replace("epochs: 3", "epochs: 1")
    # One process trains all samples of a command.
    text = text.replace("workers: 1", "workers: 1, concurrent_trials: 1")
    rows, _, rest = text.partition("  twin:\n")
    study.write_text(
        f"{rows}{rest.partition('resources')[1]}{rest.partition('resources')[2]}{SEARCH}"
    )
    first = sweep(study, "--no-preflight")
    assert (first.returncode, first.stderr) == (0, ""), first.stdout
    assert "2 trials more, sampled by the scores so far" in first.stdout
    assert "Best of 4 samples" in first.stdout
    _, trials, client = runs(study)
    names = {f"{row}, sample {number}" for row in ("strong", "full") for number in range(4)}
    assert trials.keys() == names
    config = load_study(study).config
    for row in ("strong", "full"):
        samples = samples_in(trials, row)
        assert [samples[n][0] for n in (0, 1)] == [
            random_sample(config.sample, n, 0) for n in (0, 1)
        ]
        for number in (2, 3):
            known = [samples[n][0] for n in range(number)]
            scores = {n: samples[n][1] for n in range(number)}
            expected = propose(config, (row,), known, scores, [number])
            assert [samples[number][0]] == expected
        for sample, _ in samples.values():
            params = trials[f"{row}, sample {sample.number}"].data.params
            assert (
                float(params["training.learning_rate"]) == sample.values["training.learning_rate"]
            )

    # Nothing is trained again; a deleted run is, with the values that its scores lead to.
    client.delete_run(trials["full, sample 3"].info.run_id)
    second = sweep(study, "--no-preflight")
    assert (second.returncode, second.stderr) == (0, ""), second.stdout
    _, again, _ = runs(study)
    assert samples_in(again, "full") == samples_in(trials, "full")
    new = {run.info.run_id for run in again.values()} - {run.info.run_id for run in trials.values()}
    assert new == {again["full, sample 3"].info.run_id}

    out = study.parent / "out"
    assert report([str(study), "--storage", str(study.parent / "storage"), "--out", str(out)]) == 0
    table = study.parent / "table.yaml"
    table.write_text(
        f"study: tuned\nextends: {study.name}\nkind: table\n"
        "from_search: out/found.yaml\nsamples: null\n"
        "sample: {training.learning_rate: null, data.augmentation.hue: null}\n"
    )
    best = {
        row: max(samples_in(again, row).values(), key=lambda each: each[1])[0]
        for row in ("strong", "full")
    }
    for trial in load_study(table).trials:
        assert trial.sample is None
        values = best[trial.variant].values
        assert trial.experiment.training.learning_rate == values["training.learning_rate"]
        assert trial.experiment.data.augmentation.hue == values["data.augmentation.hue"]
