"""What a study's command says about its data."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from orchestrator.planning.data_summary import show_data
from pipelines.data.facts import summary, training_warnings
from pipelines.model_directory import metadata_files
from pipelines.network.file_names import WEIGHTS_FILE
from tests.support.planned_study import resolved


def test_data_of_a_plan_is_described_once(file: Path) -> None:
    """All splits that trials are scored on are described, including those of protocols."""
    with file.open("a") as study_file:
        study_file.write("protocols: {again: {}, other: {split: train+val}}\n")
    study, trials = resolved(file)
    console = Console(width=80)
    with console.capture() as capture:
        show_data(study, trials, console)
    name, dataset = trials[0].experiment.data.dataset, trials[0].dataset
    expected = [f"{name} {line}" for line in summary(dataset, ["train", "val", "train+val"])]
    warnings = training_warnings(dataset, "train", ["val", "train+val"])
    expected += [f"warning  {name} {line}" for line in warnings]
    assert capture.get().splitlines() == expected


def test_other_classes_of_initial_weights_are_named(file: Path, tmp_path: Path) -> None:
    study, (trial, *_) = resolved(file)
    manifest = trial.dataset.manifest
    other = replace(manifest, classes=manifest.classes[::-1])
    for name, text in metadata_files(trial.experiment, other).items():
        (tmp_path / name).write_text(text)
    (tmp_path / WEIGHTS_FILE).touch()
    console = Console(width=80)
    shown = []
    for skip in ((), ("head.*",)):
        training = replace(trial.experiment.training, init=str(tmp_path), init_skip=skip)
        experiment = replace(trial.experiment, training=training)
        started = replace(trial, experiment=experiment, init=str(tmp_path / WEIGHTS_FILE))
        with console.capture() as capture:
            show_data(study, [started], console)
        shown.append("training.init: class 0 is " in capture.get())
    assert shown == [True, False]


def test_loss_that_depends_on_the_workers_is_named(file: Path) -> None:
    own = "[{name: 'torch.nn:CrossEntropyLoss', arguments: {ignore_index: 255}}]"
    text = file.read_text()
    assert "training: {" in text
    file.write_text(text.replace("training: {", f"training: {{loss: {{terms: {own}}}, ", 1))
    study, trials = resolved(file)
    console = Console(width=80)
    shown = []
    for workers in (1, (1, 2)):
        resources = replace(study.config.resources, workers=workers)
        with console.capture() as capture:
            show_data(
                replace(study, config=replace(study.config, resources=resources)), trials, console
            )
        shown.append(capture.get().count("warning  loss torch.nn:CrossEntropyLoss is computed for"))
    assert shown == [0, 1]
