"""Profile studies: parameters and multiply-adds next to the published values."""

import csv
import io
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from models.cost_table import profile_all
from orchestrator.studies.__main__ import main as studies
from orchestrator.study.load import load_study
from orchestrator.study.profile_costs import profile_costs
from orchestrator.sweep.__main__ import main as sweep_main

ROOT = Path(__file__).parents[3]
STUDY = """\
study: costs
kind: profile
profile: {classes: 7, size: [64, 96]}
grid: {model.backbone: [dfnet1, resnet18]}
variants:
  strong: {set: {model: {flows: []}}}
  df: {part: flows.detail}
published:
  - {label: Other, parameters_m: 3.5, when: {model.backbone: dfnet1}}
"""


@pytest.mark.slow
def test_table_2_matches_the_paper_within_half_a_percent() -> None:
    study = load_study(ROOT / "studies" / "table-2.yaml")
    costs = profile_costs(study)
    names = ["baseline", "strong", "fenet"]
    profiled = {row.name: row for row in profile_all(names, ["resnet101"], 19, 1024, 1024, False)}
    for name in ("baseline", "strong", "df", "sf", "fenet"):
        assert costs[name].parameters_m == pytest.approx(profiled[name].params_m)
        assert costs[name].gflops == pytest.approx(profiled[name].gflops)
    for trial in study.trials:
        assert trial.reference is not None
        cost, published = costs[trial.name], trial.reference
        assert cost.parameters_m == pytest.approx(published.parameters_m, rel=0.005)
        if published.gflops is not None:
            assert cost.gflops == pytest.approx(published.gflops, rel=0.005)


@pytest.mark.slow
def test_profile_is_logged_without_training(
    tmp_path: Path, own_store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, storage = tmp_path / "study.yaml", own_store
    file.write_text(STUDY)
    assert sweep_main([str(file), "--storage", str(storage)]) == 0
    printed = capfd.readouterr().out
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("costs")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"study.yaml", "study.resolved.yaml", "report"}
    table = client.download_artifacts(run.info.run_id, "report/table.csv", str(tmp_path))
    table_text = Path(table).read_text()
    lines = list(csv.DictReader(io.StringIO(table_text)))
    assert [(line["label"], line["model.backbone"], line["kind"]) for line in lines] == [
        ("strong", "dfnet1", "profile"),
        ("strong", "resnet18", "profile"),
        ("df", "dfnet1", "profile"),
        ("df", "resnet18", "profile"),
        ("Other", "dfnet1", "published"),
    ]
    for cost, line in zip(profile_costs(load_study(file)).values(), lines, strict=False):
        assert float(line["parameters_m"]) == pytest.approx(cost.parameters_m, rel=1e-3)
        assert f"{cost.parameters_m:.2f}" in printed
    assert not (storage / "datasets").exists()

    # `--only` prints a part and keeps the logged table; so does a table with other settings.
    for option in ("--only=strong*", "--set=profile.size=[32, 32]"):
        assert sweep_main([str(file), "--storage", str(storage), option]) == 0
        output = capfd.readouterr().out
        assert ("│ df " in output) == option.startswith("--set")
        assert ("--set study=NAME" in output) == option.startswith("--set")
        logged_table = client.download_artifacts(run.info.run_id, "report/table.csv", str(tmp_path))
        assert Path(logged_table).read_text() == table_text
        assert client.get_run(run.info.run_id).info.status == "FINISHED"


def test_study_is_resumed_with_its_original_options(
    tmp_path: Path,
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """From another directory, with the same `--set`, `--only` and modules next to the study."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "resumed_study_networks.py").write_text(
        "from torch import nn\n"
        "class Tiny(nn.Conv2d):\n"
        "    def __init__(self, classes, size=1):\n"
        "        super().__init__(3, classes, size)\n"
    )
    (tmp_path / "project" / "study.yaml").write_text(
        "study: costs\nkind: profile\nprofile: {classes: 1000}\n"
        "variants:\n"
        "  small: {set: {model: {network: 'resumed_study_networks:Tiny'}}}\n"
        "  large: {set: {model: {network: 'resumed_study_networks:Tiny'}}}\n"
    )
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.syspath_prepend(str(tmp_path / "project"))
    options = ["--storage", str(own_store)]
    selection = ["--set", "model.arguments.size=20", "--only", "large"]
    assert sweep_main(["study.yaml", *options, *selection]) == 0
    first = capfd.readouterr().out
    parameters = (3 * 20 * 20 + 1) * 1000 / 1e6
    assert f"{parameters:.2f}" in first
    monkeypatch.undo()
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "resumed_study_networks")
    assert studies(["resume", "costs", *options]) == 0
    assert capfd.readouterr().out == first


def test_unwritable_storage_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    assert sweep_main([str(tmp_path / "study.yaml"), "--storage", "/dev/null/storage"]) == 2
    assert "--storage /dev/null/storage: cannot be written" in capfd.readouterr().out


@pytest.mark.slow
def test_plan_of_a_profile_is_printed_but_not_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, storage = tmp_path / "study.yaml", tmp_path / "storage"
    file.write_text(STUDY)
    assert sweep_main([str(file), "--storage", str(storage), "--plan"]) == 0
    assert "resnet18" in capfd.readouterr().out
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    assert client.get_experiment_by_name("costs") is None


def test_unknown_part_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("flows.detail", "flow.detail"))
    assert sweep_main([str(file), "--storage", str(tmp_path / "storage")]) == 2
    assert "variants.df.part: 'flow.detail' is not a part of this network; did you mean" in (
        capfd.readouterr().out
    )
