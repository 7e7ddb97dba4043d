"""The figures that a study draws when it ends."""

from pathlib import Path

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.sweep.figures import figure_commands
from orchestrator.tracking.runs import TrialRun

STUDY = """\
study: pairs
compare_to: strong
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
variants:
  strong: {label: strong baseline, set: {model: {flows: []}}}
  df: {set: {model: {flows: [detail]}}}
  full: {label: FENet}
seeds: [3, 4, 5]
"""


def test_search_that_samples_draws_no_comparison(tmp_path: Path, small_streets: Path) -> None:
    """Two samples of one seed differ in more than the row."""
    text = STUDY.replace("DATASET", str(small_streets)).replace(
        "compare_to: strong", "kind: search"
    )
    file = tmp_path / "study.yaml"
    file.write_text(f"{text}sample: {{training.learning_rate: {{log: [0.001, 1]}}}}\nsamples: 2\n")
    study = load_study(file, [("seeds", "[3]")])
    trials = resolve_trials(study.trials, "cpu", tmp_path)
    finished = {t.name: TrialRun(t.name, "pairs", "", "FINISHED", "", 1, {}) for t in trials}
    assert figure_commands(study, trials, finished).keys() == {"features"}


def test_figures_compare_finished_trials(tmp_path: Path, small_streets: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    study = load_study(file)
    trials = resolve_trials(study.trials, "cpu", tmp_path)

    def commands(*names: str, **scores: float) -> dict[str, list[str]]:
        finished = {
            name: TrialRun(name, "pairs", "", "FINISHED", "", 1, {"val/miou": scores.get(name, 0)})
            for name in names
        }
        return figure_commands(study, trials, finished)

    names = [trial.name for trial in trials]
    strong3, strong4, strong5, df3, df4, _, full3, full4, full5 = names
    assert commands() == {}
    assert commands(strong3, df4) == {}
    data_options = ["--dataset", str(small_streets), "--split", "val"]
    assert commands(*names) == {
        "comparison": [
            "compare",
            f"runs:/{strong3}/last",
            f"runs:/{full3}/last",
            "--names",
            "strong baseline",
            "FENet",
            "--seed-of-a",
            f"runs:/{strong4}/last",
            "--seed-of-b",
            f"runs:/{full4}/last",
            "--seed-of-a",
            f"runs:/{strong5}/last",
            "--seed-of-b",
            f"runs:/{full5}/last",
            *data_options,
        ],
        "features": ["features", f"runs:/{full3}/last", "--name", "FENet", *data_options],
    }
    # The seed with the difference closest to the mean difference is drawn.
    scores = {strong3: 0.5, full3: 0.3, strong4: 0.5, full4: 0.7, strong5: 0.5, full5: 0.6}
    typical = commands(*names, **scores)["comparison"]
    assert typical[1:3] == [f"runs:/{strong5}/last", f"runs:/{full5}/last"]
    partial = commands(strong3, strong4, df3, full4)
    assert partial["comparison"][1:3] == [f"runs:/{strong4}/last", f"runs:/{full4}/last"]
    assert commands(strong3, df3)["comparison"][1:3] == [
        f"runs:/{strong3}/last",
        f"runs:/{df3}/last",
    ]


def test_comparison_uses_the_protocol_of_the_table(tmp_path: Path, small_streets: Path) -> None:
    protocol = (
        "protocols: {slide: {window: [32, 64], scales: [0.5, 1.0], flip: true, split: train}}\n"
    )
    file = tmp_path / "study.yaml"
    file.write_text(
        STUDY.replace("DATASET", str(small_streets)) + protocol + "report: {protocol: slide}\n"
    )
    study = load_study(file)
    trials = resolve_trials(study.trials, "cpu", tmp_path)
    finished = {
        trial.name: TrialRun(trial.name, "pairs", "", "FINISHED", "", 1, {}) for trial in trials
    }
    commands = figure_commands(study, trials, finished)
    assert [words[words.index("--split") + 1] for words in commands.values()] == ["train"] * 2
    command = commands["comparison"]
    assert command[-5:] == ["--flip", "--scales", "0.5,1.0", "--window", "32x64"]
