"""Samples that TPE draws by the scores of earlier ones."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.planning.proposals import next_samples, propose, with_recorded_samples
from orchestrator.planning.reconcile import Decision
from orchestrator.study.config import StudyConfig
from orchestrator.study.sampling import RangeConfig, SamplesConfig, SearchSample, random_sample
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.samples import recorded_samples
from tests.support.study_files import SEARCH, load

RATE, KIND = "training.learning_rate", "training.optimizer"
RANGES = {
    RATE: RangeConfig(log=(1e-4, 1.0)),
    KIND: RangeConfig(choice=("sgd", {"name": "adamw", "arguments": {"eps": 1e-6}})),
}
STUDY = (
    SEARCH
    + """\
sample:
  training.learning_rate: {log: [1e-4, 1]}
  training.optimizer: {choice: [sgd, {name: adamw, arguments: {eps: 1e-6}}]}
samples: {count: 7, method: tpe, startup: 3, round: 2}
seeds: [0, 1]
"""
)


def config(count: int = 60) -> StudyConfig:
    sampling = SamplesConfig(count, "tpe", startup=10)
    return StudyConfig("tune", {}, kind="search", sample=RANGES, samples=sampling)


def score(sample: SearchSample) -> float:
    """A score with its maximum at 0.01, where AdamW is better."""
    penalty = 0.0 if isinstance(sample.values[KIND], dict) else 0.3
    return -abs(math.log10(sample.values[RATE]) + 2) - penalty


def searched(cell: tuple[str, ...] = ("a",), sign: float = 1.0) -> list[SearchSample]:
    """Search with 10 random samples and 30 by TPE, two at a time."""
    study = config()
    samples = [random_sample(RANGES, number, 0) for number in range(10)]
    while len(samples) < 40:
        scores = {each.number: sign * score(each) for each in samples}
        numbers = [len(samples), len(samples) + 1]
        samples += propose(study, cell, samples, scores, numbers, maximize=sign > 0)
    return samples


def test_later_samples_are_near_the_best() -> None:
    samples = searched()
    assert [each.number for each in samples] == list(range(40))
    for each in samples:
        assert all(limits.contains(each.values[key]) for key, limits in RANGES.items())
    late = [score(each) for each in samples[20:]]
    random = [score(random_sample(RANGES, number, 0)) for number in range(400)]
    assert sum(late) / len(late) > sum(random) / len(random) + 0.4
    assert max(late) > sorted(random)[int(0.97 * len(random))]
    assert sum(isinstance(each.values[KIND], dict) for each in samples[20:]) >= 12


def test_the_same_scores_give_the_same_samples() -> None:
    assert searched() == searched()
    assert searched(("b",))[10:] != searched()[10:]  # by row
    assert searched(("b",))[:10] == searched()[:10]


def test_a_low_score_may_be_the_good_one() -> None:
    assert searched(sign=-1.0) == searched()


def test_failed_samples_are_avoided_or_ignored() -> None:
    known = [random_sample(RANGES, number, 0) for number in range(6)]
    nothing = propose(config(), ("a",), known, {each.number: None for each in known}, [6, 7])
    assert nothing == [random_sample(RANGES, 6, 0), random_sample(RANGES, 7, 0)]
    scores = {each.number: score(each) if each.number % 2 else None for each in known}
    assert len(propose(config(), ("a",), known, scores, [6, 7, 8])) == 3


def test_choices_that_are_equal_in_python_are_different() -> None:
    key, drawn = "model.variant", []
    for choices in ((0, False), ("zero", "false")):
        ranges = {key: RangeConfig(choice=choices)}
        study = StudyConfig("tune", {}, kind="search", sample=ranges, samples=SamplesConfig(40))
        samples = [random_sample(ranges, number, 0) for number in range(10)]
        second = repr(choices[1])
        scores = {each.number: float(repr(each.values[key]) == second) for each in samples}
        proposed = propose(study, ("a",), samples, scores, range(10, 40))
        drawn.append([repr(each.values[key]) == second for each in proposed])
    assert drawn[0] == drawn[1]


def loaded(tmp_path: Path, text: str = STUDY) -> Study:
    return load(tmp_path, text)


@dataclass
class Store:
    """The runs of trials that are trained at once. A trial's identity is its experiment as text."""

    runs: list[TrialRun]

    @staticmethod
    def identity(trial: Trial) -> str:
        return repr(trial.experiment)

    def resolve(self, study: Study) -> list[Any]:
        return [
            SimpleNamespace(**{**vars(trial), "cell": trial.cell, "identity": self.identity(trial)})
            for trial in study.trials
        ]

    def train(self, study: Study, failing: int | None = None) -> None:
        done = {run.identity for run in self.runs}
        for trial in study.trials:
            assert trial.sample is not None
            if self.identity(trial) in done:
                continue
            failed = trial.sample.number == failing
            value = score(trial.sample) + 0.01 * trial.experiment.seed
            self.runs.append(
                TrialRun(
                    run_id=str(len(self.runs)),
                    study="tune",
                    identity=self.identity(trial),
                    status="FAILED" if failed else "FINISHED",
                    code="code",
                    epoch=3,
                    metrics={} if failed else {"val/miou": value},
                    name=trial.name,
                    variant=trial.variant,
                    sample=trial.sample,
                )
            )

    def decisions(self, study: Study) -> dict[str, Decision]:
        by_identity = {run.identity: run for run in self.runs}
        found = {trial.name: by_identity.get(self.identity(trial)) for trial in study.trials}
        return {
            name: Decision(TrialState.MISSING, "train", None)
            if run is None
            else Decision(TrialState(run.status.lower()), "leave", run)
            for name, run in found.items()
        }

    def next(self, study: Study) -> Study | None:
        return next_samples(study, self.resolve(study), self.decisions(study))


def numbers(study: Study) -> list[int]:
    return sorted({trial.sample.number for trial in study.trials if trial.sample is not None})


def test_rounds_end_with_the_count(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    assert numbers(study) == [0, 1, 2]
    assert store.next(study) is None  # nothing is trained yet
    sizes = []
    larger: Study | None = study
    while larger is not None:
        study = larger
        sizes.append(len(numbers(study)))
        store.train(study, failing=1)
        larger = store.next(study)
    assert sizes == [3, 5, 7]
    assert len(study.trials) == 2 * 7 * 2  # rows, samples, seeds
    values = {
        row: [t.sample.values for t in study.trials if t.variant == row and t.sample]
        for row in ("a", "b")
    }
    assert values["a"][:6] == values["b"][:6]  # the random ones


def test_another_command_continues_with_the_same_samples(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study)
    larger = store.next(study)
    assert larger is not None
    # Interrupted: the first of the new samples was trained, in one row and with one seed only.
    started = larger.trials[6]
    store.train(replace(larger, trials=(started,)))
    known = with_recorded_samples(loaded(tmp_path), store.runs, store.resolve)
    assert started in known.trials
    assert known.trials == tuple(trial for trial in larger.trials if trial in known.trials)
    assert len(known.trials) < len(larger.trials)
    assert store.next(known) is not None  # row b, whose samples have all ended
    store.train(known)
    again = store.next(known)
    assert again is not None
    assert {t.name: t for t in larger.trials if t.variant == "b"}.items() <= {
        t.name: t for t in again.trials
    }.items()


def test_samples_of_another_definition_are_not_taken(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study)
    larger = store.next(study)
    assert larger is not None
    store.train(larger)
    edited = loaded(tmp_path, STUDY.replace("epochs: 3", "epochs: 4"))
    assert with_recorded_samples(edited, store.runs, store.resolve).trials == edited.trials
    narrower = loaded(tmp_path, STUDY.replace("[1e-4, 1]", "[1e-4, 2e-4]"))
    recorded = recorded_samples(narrower, store.runs).values()
    assert all(each.values[RATE] <= 2e-4 for samples in recorded for each in samples)
    fewer = loaded(tmp_path, STUDY.replace("count: 7", "count: 4"))
    assert numbers(with_recorded_samples(fewer, store.runs, store.resolve)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: {}", "c: {}"),
        ("a: {}, b: {set: {model: {flows: []}}}", "b: {}, a: {set: {model: {flows: []}}}"),
    ],
)
def test_renamed_rows_keep_their_samples(tmp_path: Path, before: str, after: str) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study)
    larger = store.next(study)
    assert larger is not None
    store.train(larger)
    renamed = with_recorded_samples(
        loaded(tmp_path, STUDY.replace(before, after)), store.runs, store.resolve
    )
    assert {repr(each.experiment) for each in renamed.trials} == {
        repr(each.experiment) for each in larger.trials
    }


def test_random_samples_need_no_store(tmp_path: Path) -> None:
    study = loaded(tmp_path, STUDY.replace("tpe", "random"))
    store = Store([])
    store.train(study)
    assert store.next(study) is None
    assert with_recorded_samples(study, store.runs, store.resolve) is study


def test_optuna_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.study import search_checks

    monkeypatch.setattr(search_checks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs optuna, which is not installed; run"):
        loaded(tmp_path)


def test_score_of_a_failed_trial_does_not_count(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study, failing=1)
    without = store.next(study)
    # It may have the score of an early epoch.
    store.runs = [
        replace(run, metrics={"val/miou": 9.0}) if run.status == "FAILED" else run
        for run in store.runs
    ]
    larger = store.next(study)
    assert larger is not None
    assert without is not None
    assert larger.trials == without.trials


def test_search_continues_after_trials_that_were_stopped_early(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study, failing=1)
    decisions = {
        name: replace(decision, state=TrialState.STOPPED_EARLY)
        if decision.state is TrialState.FAILED
        else decision
        for name, decision in store.decisions(study).items()
    }
    larger = next_samples(study, store.resolve(study), decisions)
    assert larger is not None
    assert larger.trials == store.next(study).trials  # type: ignore[union-attr]


def test_search_continues_after_the_code_has_changed(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study)
    stale = {
        name: replace(each, state=TrialState.STALE) for name, each in store.decisions(study).items()
    }
    assert next_samples(study, store.resolve(study), stale) is not None


def test_part_of_a_search_draws_no_samples(tmp_path: Path) -> None:
    store, study = Store([]), loaded(tmp_path)
    store.train(study)
    assert store.next(replace(study, trials=study.trials[:6])) is None
