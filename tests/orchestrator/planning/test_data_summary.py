"""What a study's command says about its data."""

from pathlib import Path

from rich.console import Console

from orchestrator.planning.data_summary import show_data
from pipelines.data.facts import summary, training_warnings
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
