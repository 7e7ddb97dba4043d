"""Bundles of fabricated studies: written, checked elsewhere, and compared with a replay."""

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from models.backbones import build_backbone
from orchestrator.bundle.__main__ import main
from orchestrator.bundle.check import bundled_study
from orchestrator.bundle.content import Bundle, BundleError, pack
from orchestrator.bundle.replay import replay
from orchestrator.study.load import load_study
from orchestrator.study.sampling import SearchSample
from orchestrator.study.study import Study
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import PLAIN, fabricate, fabricate_study, write_study
from tests.support.own_metric import WRONG

SEEDS = PLAIN.replace("  training:", "  evaluation: {metrics: [boundary_f]}\n  training:")
SEEDS += "seeds: [0, 1, 2]\n"
SEEDS += "report: {columns: [miou, difference, p, iou/road, boundary_f, difference/boundary_f]}\n"


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Path:
    """Write a bundle of a study that is gone afterwards; return its directory."""
    directory = tmp_path_factory.mktemp("bundle")
    storage = make_storage(directory)
    file = fabricate_study(directory, small_streets, SEEDS)
    out = tmp_path_factory.mktemp("bundles") / "written"
    assert main([str(file), "--storage", str(storage), "--out", str(out)]) == 0
    shutil.rmtree(directory)
    return out


@pytest.fixture
def bundle(tmp_path: Path, written: Path) -> Path:
    """Return the directory of a copy of the bundle, which a test may change."""
    return shutil.copytree(written, tmp_path / "elsewhere")


def edit(file: Path, change: Callable[[str], str]) -> None:
    text = file.read_text()
    assert change(text) != text
    file.write_text(change(text))


def edit_description(bundle: Path, change: Callable[[Any], object]) -> None:
    document = json.loads((bundle / "bundle.json").read_text())
    change(document)
    (bundle / "bundle.json").write_text(json.dumps(document))


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = change(pa.ipc.open_file(file.read_bytes()).read_all())
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


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


def test_bundle_of_a_search_has_its_samples(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that the study file does not determine, which are read from the runs' tags."""
    key = "training.learning_rate"
    text = PLAIN.replace("compare_to: a", "kind: search")
    text += f"sample: {{{key}: {{log: [1e-3, 1]}}}}\n"
    text += "samples: {count: 3, method: tpe, startup: 1}\n"
    file = write_study(tmp_path, small_streets, text)
    study = load_study(file)
    assert study.with_samples is not None
    later = {(row,): [SearchSample(n, {key: 0.1 * n}) for n in (1, 2)] for row in ("a", "b")}
    fabricate(study.with_samples(later), tmp_path / "storage")
    out = tmp_path / "written"
    arguments = [str(file), "--storage", str(tmp_path / "storage"), "--out", str(out)]
    assert main(arguments) == 0
    runs = Bundle.read(out).runs
    assert runs.keys() == {f"{row}, sample {n}" for row in "ab" for n in range(3)}
    assert runs["b, sample 2"].sample == SearchSample(2, {key: 0.2})
    assert (out / "tables" / "found.yaml").is_file()
    capsys.readouterr()
    assert main([str(out), "--check"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_changed_scores_are_found(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the changed file's SHA-256 is changed with it."""

    def exchange(text: str) -> str:
        document = json.loads(text)
        document["table"][1]["difference"] += 0.01
        document["runs"]["a, seed 1"]["metrics"]["val/iou/road"] += 1e-6
        document["runs"]["b, seed 0"]["metrics"]["val/boundary_f"] += 1e-6
        return json.dumps(document)

    edit(bundle / "bundle.json", exchange)
    edit(bundle / "tables" / "table.md", lambda text: text.replace("+", "-"))
    edit(bundle / "sources" / "models" / "fenet.py", lambda text: text + "# changed\n")
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert lines[0] == "sources/models/fenet.py was changed (its SHA-256 differs)"
    assert lines[1] == "tables/table.md was changed (its SHA-256 differs)"
    assert lines[2].startswith("the sources have the code version ")
    assert lines[3].startswith("a, seed 1: val/iou/road is ")
    assert lines[4].startswith("b, seed 0: val/boundary_f is ")
    assert lines[5].startswith("b: difference is ")
    assert len(lines) == 6


@pytest.mark.parametrize("name", ["table.csv", "table.md", "table.tex"])
def test_changed_tables_are_found(
    bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the SHA-256 is changed with them."""
    file = bundle / "tables" / name
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(file, lambda text: text.replace("5", "6"))
    after = hashlib.sha256(file.read_bytes()).hexdigest()
    assert after != before
    edit(bundle / "bundle.json", lambda text: text.replace(before, after))
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    (line, _) = capsys.readouterr().out.splitlines()
    assert f"tables/{name}: line " in line
    assert ", but the counts give " in line


@pytest.mark.parametrize("listed", [False, True])
def test_tables_that_are_unlisted_or_no_text_are_found(
    bundle: Path, listed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    table = bundle / "tables" / "table.csv"
    before = hashlib.sha256(table.read_bytes()).hexdigest()
    table.write_bytes(table.read_bytes() + b"\xe4")
    after = hashlib.sha256(table.read_bytes()).hexdigest()

    def change(text: str) -> str:
        document = json.loads(text.replace(before, after))
        if not listed:
            del document["files"]["tables/table.csv"]
        return json.dumps(document)

    edit(bundle / "bundle.json", change)
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    output = capsys.readouterr().out
    assert "tables/table.csv: line " in output
    assert ("tables/table.csv is not listed in bundle.json" in output) != listed


@pytest.mark.parametrize("listed", [False, True])
def test_missing_table_is_found_once(
    bundle: Path, listed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "tables" / "table.csv").unlink()
    if not listed:
        edit_description(bundle, lambda document: document["files"].pop("tables/table.csv"))
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    (line, _) = capsys.readouterr().out.splitlines()
    assert line.endswith(" tables/table.csv is missing")


def test_table_with_another_number_of_lines_is_found(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_description(bundle, lambda document: document["table"].pop())
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    assert "the table has 1 lines, but the counts give 2" in capsys.readouterr().out


def test_runs_of_another_code_version_than_the_sources_are_named(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_description(bundle, lambda document: document["runs"]["b, seed 1"].update(code="0" * 16))
    capsys.readouterr()
    main([str(bundle), "--check"])
    note = "1 trial trained by another code version than the bundled sources: b, seed 1"
    assert note in capsys.readouterr().out


def test_changed_counts_are_found(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(
        min(bundle.rglob("counts.arrow")),
        lambda table: table.set_column(3, "tp", pc.add(table["tp"], 1)),
    )
    statistics, counts = (sorted(bundle.rglob(f"{n}.arrow"))[-1] for n in ("statistics", "counts"))
    statistics.unlink()
    counts.unlink()
    assert main([str(bundle), "--check"]) == 1
    output = capsys.readouterr().out
    assert "counts.arrow was changed" in output
    assert "counts.arrow: not in the bundle" in output
    assert "statistics.arrow is missing" in output


def other_images(table: pa.Table) -> pa.Table:
    return table.set_column(0, "identifier", pa.array(["another", *table["identifier"][1:]]))


def other_length(table: pa.Table) -> pa.Table:
    sums = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 2 * len(table)), 2)
    return table.set_column(1, "boundary_f", sums)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_images, "a, seed 0: statistics.arrow is of other images than counts.arrow"),
        (other_length, "a, seed 0: metric boundary_f needs 20 sums, not 2"),
        (lambda table: table.drop_columns("boundary_f"), "not a file of statistics by image"),
    ],
)
def test_statistics_that_do_not_fit_the_counts_are_found(
    bundle: Path,
    change: Callable[[pa.Table], pa.Table],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = Bundle.read(bundle).runs["a, seed 0"].run_id
    (file,) = (path for path in bundle.rglob("statistics.arrow") if run_id in str(path))
    rewrite(file, change)
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    output = capsys.readouterr().out
    assert message in output
    # What cannot be recomputed is said, too.
    assert "not recomputed: boundary_f, because not every run has sums by image" in output


def test_zip_of_an_incomplete_study(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = fabricate_study(tmp_path, small_streets, PLAIN, fates={"b": "missing"})
    archive = tmp_path / "bundle.zip"
    arguments = [str(file), "--storage", str(own_store), "--out", str(archive)]
    assert main(arguments) == 1
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


def test_bundle_names_initial_weights_as_the_study(
    tmp_path: Path, small_streets: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(dict(build_backbone("dfnet1", None, False).state_dict()), "dfnet1.pth")
    text = PLAIN.replace("training: {", "training: {backbone_weights: dfnet1.pth, ")
    file = fabricate_study(tmp_path, small_streets, text)
    out = tmp_path / "bundle"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0
    assert Bundle.read(out).runs["a"].weights == ("dfnet1.pth", None)
    assert str(tmp_path) not in (out / "bundle.json").read_text()


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
    assert (tmp_path / "whole" / "models" / "1-small" / "model.safetensors").is_file()
    assert main([str(moved), "--check"]) == 0
    content = Bundle.read(moved)
    assert content.runs["b"].weights == ("./models/1-small/model.safetensors", None)
    study = bundled_study(content, moved)
    backbones = {trial.variant: trial.experiment.model.backbone for trial in study.trials}
    assert backbones["b"] == "hf:convnext"
    capsys.readouterr()
    assert main([str(moved), "--replay", "b", "--storage", str(tmp_path / "again")]) == 2
    assert "write the bundle with --weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "cannot be opened ([Errno 2] No such file or directory: "),
        ("study.yaml", "cannot be opened (File is not a zip file); give the directory or zip file"),
        ("empty", "is not a bundle (bundle.json: [Errno 2] No such file or directory: "),
        ("other.zip", "is not a bundle, because it has no bundle.json; orchestrator.bundle "),
    ],
)
def test_other_files_are_rejected(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text("study: s\n")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "text")
    assert main([str(tmp_path / name), "--check"]) == 2
    assert f"error: {tmp_path / name} {message}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        lambda document: [],
        lambda document: "bundle",
        lambda document: {**document, "version": "1"},
        lambda document: {**document, "version": True},
        lambda document: {**document, "format": [1]},
        lambda document: {**document, "runs": []},
        lambda document: {**document, "runs": {"a, seed 0": {"metrics": 3}}},
        lambda document: {**document, "codes": {}},
        lambda document: {**document, "sources": {"0": {"files": [1]}}},
        lambda document: {key: value for key, value in document.items() if key != "table"},
    ],
)
def test_other_descriptions_are_one_error(
    bundle: Path, change: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle / "bundle.json", lambda text: json.dumps(change(json.loads(text))))
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("error: ")


def test_deeply_nested_description_is_one_error(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "bundle.json").write_text("[" * 100_000)
    assert main([str(bundle), "--check"]) == 2
    assert "nested too deeply" in capsys.readouterr().out


def test_damaged_zip_is_one_error(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(bundle, tmp_path / "bundle.zip")
    content = bytearray(archive.read_bytes())
    for position in range(200, len(content) // 2, 997):
        content[position] ^= 255
    archive.write_bytes(content)
    capsys.readouterr()
    assert main([str(archive), "--check"]) == 2
    assert f"{archive} cannot be opened (" in capsys.readouterr().out


def test_zip_of_a_folder_is_checked(bundle: Path, tmp_path: Path) -> None:
    """As most programs pack a bundle that was unpacked."""
    (tmp_path / "outer").mkdir()
    bundle.rename(tmp_path / "outer" / "supplement")
    assert main([str(pack(tmp_path / "outer", tmp_path / "packed.zip")), "--check"]) == 0


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


def test_replay_needs_a_directory(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--replay", "b, seed 2", "--storage", "s3://b/x"]) == 2
    assert "--storage s3://b/x cannot hold the replay's own" in capsys.readouterr().out


def test_replay_compares_bit_for_bit(
    bundle: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fabricated trials are the same in every storage."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # not used

    def train(study: Study, storage: Path) -> bool:
        assert [trial.name for trial in study.trials] == ["b, seed 2"]
        assert study.config.resources.most_workers == 1
        storage.mkdir()
        shutil.copy(empty_store, storage)
        fabricate(study, storage)
        return True

    result = replay(bundle, "b, seed 2", tmp_path / "again", None, train)
    assert result.problems == ()
    assert result.notes == ()
    assert result.same == (
        *("train/loss of 3 epochs", "val/miou of 3 epochs", "the counts by image and class"),
    )

    def change(text: str) -> str:
        document = json.loads(text)
        run_id = document["runs"]["b, seed 2"]["run_id"]
        document["histories"][run_id]["train/loss"][1][1] += 1e-12
        return json.dumps(document)

    edit(bundle / "bundle.json", change)
    result = replay(bundle, "b, seed 2", tmp_path / "more", None, train)
    assert result.problems == ("train/loss, from epoch 2 on",)
    with pytest.raises(BundleError, match="no trial 'b, seed 9' has a run"):
        replay(bundle, "b, seed 9", tmp_path / "third", None, train)


def test_replay_of_a_study_with_latency_and_a_precision_axis(
    small_streets: Path, tmp_path: Path, own_store: Path, empty_store: Path
) -> None:
    text = f"{PLAIN}grid: {{training.precision: [fp32, bf16]}}\nlatency: {{size: [64, 64]}}\n"
    text += "report: {columns: [miou, latency_ms, inference_memory_gib]}\n"
    file = fabricate_study(tmp_path, small_streets, text)
    out = tmp_path / "bundle"
    main([str(file), "--storage", str(own_store), "--out", str(out)])

    def train(study: Study, storage: Path) -> bool:
        assert study.config.latency is None
        assert [trial.experiment.training.precision for trial in study.trials] == ["bf16"]
        storage.mkdir()
        shutil.copy(empty_store, storage)
        fabricate(study, storage)
        return True

    result = replay(out, "b, bf16", tmp_path / "again", None, train)
    assert (result.problems, result.notes) == ((), ())


def test_replay_is_no_comparison_of_a_run_with_itself(
    bundle: Path, small_streets: Path, tmp_path: Path, own_store: Path
) -> None:
    file = fabricate_study(tmp_path, small_streets, PLAIN)
    out = tmp_path / "bundle"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0

    def train(study: Study, storage: Path) -> bool:
        raise AssertionError("nothing is trained")

    with pytest.raises(BundleError, match="holds the runs of the bundle"):
        replay(out, "a", own_store, None, train)
    other = tmp_path / "other"
    prepare_streets(other, train=3, val=2, size=(32, 64))
    with pytest.raises(BundleError, match=r"has the fingerprint .* with --dataset"):
        replay(out, "a", tmp_path / "new", str(other), train)
