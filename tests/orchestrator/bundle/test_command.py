"""Bundles of fabricated studies: what they contain, and the options of the command."""

import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from models.backbones import build_backbone
from orchestrator.bundle.__main__ import main
from orchestrator.bundle.check import bundled_study
from orchestrator.bundle.content import Bundle, pack_directory
from orchestrator.bundle.saved_models import missing_weights
from orchestrator.study.load import load_study
from orchestrator.study.sampling import RangeConfig, SearchSample
from orchestrator.study.search_result import FoundSample, SearchResult
from pipelines.data.dataset import open_dataset
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import PLAIN, fabricate, fabricate_study, write_study
from tests.support.own_metric import WRONG


def test_bundle_has_everything_and_is_correct(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {path.name for path in bundle.iterdir()} == {
        *("bundle.json", "study.yaml", "study.resolved.yaml"),
        *("counts", "datasets", "sources", "tables"),
    }
    content = Bundle.read(bundle)
    assert len(content.runs) == 6
    assert len(list(bundle.rglob("counts.arrow"))) == 6
    assert (bundle / "sources" / "pipelines" / "training" / "loop.py").is_file()
    assert content.datasets[0]["manifest"].startswith("datasets/")
    assert content.environment["packages"]["torch"]
    assert "mlflow ui" not in (bundle / "tables" / "report.html").read_text()
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 0
    output = capsys.readouterr().out
    assert "no problems" in output
    # Of six trials: mIoU, Dice, three accuracies, and for all and ten classes IoU and boundary F.
    assert output.startswith(f"{6 * 26} scores and "), sorted(content.runs["b, seed 0"].metrics)


@pytest.mark.parametrize("second", ["b", "renamed"])
def test_bundle_of_a_search_has_its_samples(
    tmp_path: Path,
    small_streets: Path,
    own_store: Path,
    capsys: pytest.CaptureFixture[str],
    second: str,
) -> None:
    """Also those that the study file does not determine, which are read from the runs' tags, even
    if a row has been renamed since."""
    key = "training.learning_rate"
    text = PLAIN.replace("compare_to: a", "kind: search")
    text += f"sample: {{{key}: {{log: [1e-3, 1]}}}}\n"
    text += "samples: {count: 3, method: tpe, startup: 1}\n"
    file = write_study(tmp_path, small_streets, text)
    study = load_study(file)
    assert study.with_samples is not None
    later = {(row,): [SearchSample(n, {key: 0.1 * n}) for n in (1, 2)] for row in ("a", "b")}
    fabricate(study.with_samples(later), tmp_path / "storage")
    assert "\n  b: " in text
    write_study(tmp_path, small_streets, text.replace("\n  b: ", f"\n  {second}: "))
    out = tmp_path / "written"
    arguments = [str(file), "--storage", str(tmp_path / "storage"), "--out", str(out)]
    assert main(arguments) == 0
    runs = Bundle.read(out).runs
    assert runs.keys() == {f"{row}, sample {n}" for row in ("a", second) for n in range(3)}
    assert runs[f"{second}, sample 2"].sample == SearchSample(2, {key: 0.2})
    assert (out / "tables" / "found.yaml").is_file()
    capsys.readouterr()
    assert main([str(out), "--check"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_bundle_of_a_tuned_table_has_what_its_search_found(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows have had other names in the search."""
    key = "training.learning_rate"
    found = SearchResult(
        *("tune", "random", 2, "miou", "val", (0,)),
        ranges={key: RangeConfig(log=(1e-3, 1))},
        rows=(
            FoundSample("b", {key: 0.25}, 1, 50.0, 2, set={}),
            FoundSample("a", {key: 0.125}, 0, 40.0, 2, set={"model.flows": []}),
        ),
        base={"data.dataset": str(small_streets), "training.epochs": 2},
    )
    (tmp_path / "found.yaml").write_text(found.as_yaml())
    file = fabricate_study(tmp_path, small_streets, PLAIN + "from_search: found.yaml\nseeds: [1]\n")
    out = tmp_path / "written"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0
    table = (out / "tables" / "table.md").read_text()
    assert "Rows that had another name in search 'tune': a was b, b was a." in table
    study = load_study(out / "study.resolved.yaml")
    assert study.config.search_result == found
    rates = {t.variant: t.experiment.training.learning_rate for t in study.trials}
    assert rates == {"a": 0.25, "b": 0.125}
    assert main([str(out), "--check"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_zip_of_an_incomplete_study(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of its rows have the same training."""
    file = fabricate_study(
        tmp_path, small_streets, f"{PLAIN}  same: {{}}\n", fates={"b": "missing"}
    )
    archive = tmp_path / "bundle.zip"
    arguments = [str(file), "--storage", str(own_store), "--out", str(archive)]
    assert main(arguments) == 1
    assert "bundle.zip, with the counts of 2 trials" in capsys.readouterr().out
    with zipfile.ZipFile(archive) as bundle:
        assert len([name for name in bundle.namelist() if name.endswith("counts.arrow")]) == 1
    assert main(arguments) == 2
    assert f"--out {archive} exists" in capsys.readouterr().out
    assert main([str(archive), "--check"]) == 0
    assert "1 trial without a run: b" in capsys.readouterr().out


def test_own_modules_travel_with_the_bundle(
    tmp_path: Path, small_streets: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    (code / "own_parts" / "inner").mkdir(parents=True)
    (code / "own_single.py").write_text("")
    (code / "own_parts" / "__init__.py").write_text("")
    (code / "own_parts" / "inner" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(code)
    (code / "own_metric.py").write_text(WRONG)
    text = f"{PLAIN}imports: [own_parts.inner, own_single]\n"
    text += "protocols: {whole: {metrics: ['own_metric:Wrong']}}\n"
    file = fabricate_study(tmp_path, small_streets, text)
    out = tmp_path / "bundle"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0
    shutil.rmtree(code)
    for name in [name for name in sys.modules if name.startswith("own_")]:
        monkeypatch.delitem(sys.modules, name)
    assert main([str(out), "--check"]) == 0


def test_bundle_names_data_and_initial_weights_as_the_study(
    tmp_path: Path, small_streets: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(dict(build_backbone("dfnet1", None, False).state_dict()), "dfnet1.pth")
    shutil.copytree(small_streets, "streets")
    text = PLAIN.replace("training: {", "training: {backbone_weights: dfnet1.pth, ")
    file = fabricate_study(tmp_path, Path("streets"), text)
    out = tmp_path / "bundle"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0
    run = Bundle.read(out).runs["a"]
    assert (run.dataset, run.weights) == ("streets", ("dfnet1.pth", None))
    assert str(tmp_path) not in (out / "bundle.json").read_text()


@pytest.mark.parametrize("moved", [False, True])
def test_bundle_has_the_manifest_of_the_trained_data_only(
    tmp_path: Path, small_streets: Path, own_store: Path, moved: bool
) -> None:
    """The storage has another data set, and the trained one unless it was deleted."""
    dataset = shutil.copytree(small_streets, tmp_path / "streets")
    file = fabricate_study(tmp_path, dataset, PLAIN)
    (own_store / "datasets").mkdir()
    prepare_streets(own_store / "datasets" / "a", train=3, val=2, size=(32, 64))
    if moved:
        dataset.rename(own_store / "datasets" / "b")
    else:
        shutil.rmtree(dataset)
    out = tmp_path / "bundle"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0
    (entry,) = Bundle.read(out).datasets
    trained = open_dataset(small_streets).manifest
    assert entry["fingerprint"] == trained.fingerprint
    manifests = [path.read_text() for path in out.glob("datasets/*.json")]
    assert manifests == [trained.to_json()] * moved


@pytest.mark.slow
@pytest.mark.parametrize("by_option", [False, True])
def test_configurations_of_saved_models_travel_with_the_bundle(
    tmp_path: Path,
    small_streets: Path,
    own_store: Path,
    by_option: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    transformers = pytest.importorskip("transformers")
    saved = tmp_path / "saved models" / "small"
    config = transformers.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)
    transformers.ConvNextModel(config).save_pretrained(saved)
    file = write_study(tmp_path, small_streets, PLAIN)
    overrides = [("variants.b.set.model", f"{{backbone: 'hf:{saved}', channels: 8}}")]
    overrides += [("variants.a.set.model.channels", "16")]
    if not by_option:
        file = write_study(tmp_path, small_streets, load_study(file, overrides).resolved)
        overrides = []
    fabricate(load_study(file, overrides), own_store)
    options = [option for key, text in overrides for option in ("--set", f"{key}={text}")]
    out = tmp_path / "bundle"
    command = [str(file), "--storage", str(own_store), *options]
    assert main([*command, "--out", str(out)]) == 0
    assert main([*command, "--out", str(tmp_path / "whole"), "--weights"]) == 0
    shutil.rmtree(saved.parent)
    moved = out.rename(tmp_path / "elsewhere")
    assert [path.name for path in (moved / "models" / "1-small").iterdir()] == ["config.json"]
    weights = "models/1-small/model.safetensors"
    whole = tmp_path / "whole"
    assert missing_weights(str(moved / weights), moved) == "1-small"
    assert missing_weights(str(whole / weights), whole) is None
    assert main([str(moved), "--check"]) == 0
    content = Bundle.read(moved)
    assert content.runs["b"].weights == ("./models/1-small/model.safetensors", None)
    study = bundled_study(content, moved)
    backbones = {trial.variant: trial.experiment.model.backbone for trial in study.trials}
    assert backbones["b"] == "hf:convnext"
    capsys.readouterr()
    assert main([str(moved), "--replay", "b", "--storage", str(tmp_path / "again")]) == 2
    assert "write the bundle with --weights" in capsys.readouterr().out


def test_zip_of_a_folder_is_checked(bundle: Path, tmp_path: Path) -> None:
    """As most programs pack a bundle that was unpacked, and with the files that macOS adds."""
    (tmp_path / "outer").mkdir()
    bundle.rename(tmp_path / "outer" / "supplement")
    for name in (".DS_Store", "tables/._table.csv"):
        (tmp_path / "outer" / "supplement" / name).write_bytes(b"Mac OS X")
    assert main([str(pack_directory(tmp_path / "outer", tmp_path / "packed.zip")), "--check"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "--out", "x"], "--out has no effect with --check"),
        (["--check", "--storage", "x"], "--storage has no effect with --check"),
        (["--replay", "t", "--set", "a=1"], "--set has no effect with --replay"),
        (["--out", "x", "--dataset", "d"], "--dataset has no effect without --replay"),
    ],
)
def test_option_that_is_not_used_is_rejected(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["bundle", *arguments])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
