"""Changed and damaged bundles: what a check finds."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchestrator.bundle.__main__ import main
from orchestrator.bundle.check import scores_of
from orchestrator.bundle.content import Bundle, pack_directory
from pipelines.evaluation.counts import Counts


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.pop(), "the table has 1 lines, but the counts give 2"),
        (lambda table: table[1].update(more=1.0), "more is 1.0 in the table, but the counts give "),
        (lambda table: table[1].pop("difference"), "difference is None in the table, but the "),
    ],
)
def test_table_with_other_lines_or_columns_is_found(
    bundle: Path,
    change: Callable[[Any], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit_description(bundle, lambda document: change(document["table"]))
    capsys.readouterr()
    assert main([str(bundle), "--check"]) == 1
    assert message in capsys.readouterr().out


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


def test_classes_that_are_never_right_have_a_score_but_absent_ones_have_none() -> None:
    """Three images of two labeled classes; the second is always predicted as the first."""
    values = np.array([[(6, 2, 0), (0, 0, 2), (0, 0, 0)]] * 3)
    scores = scores_of(Counts(("x", "y", "z"), (None,) * 3, ("road", "pole", "sky"), values))
    assert (scores["iou/road"], scores["iou/pole"]) == (pytest.approx(0.75), 0.0)
    assert "iou/sky" not in scores
    assert scores["miou"] == pytest.approx(0.375)
    assert scores["pixel_accuracy"] == pytest.approx(0.75)


def other_images(table: pa.Table) -> pa.Table:
    return table.set_column(0, "identifier", pa.array(["another", *table["identifier"][1:]]))


def other_length(table: pa.Table) -> pa.Table:
    sums = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 2 * len(table)), 2)
    return table.set_column(1, "boundary_f", sums)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_images, "a, seed 0: statistics.arrow and counts.arrow cover different images"),
        (other_length, "a, seed 0: metric boundary_f: the file has 2 sums per image, expected 20"),
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "cannot be opened ([Errno 2] No such file or directory: "),
        ("study.yaml", "cannot be opened (File is not a zip file); give the directory or zip file"),
        ("empty", "is not a bundle (bundle.json: [Errno 2] No such file or directory: "),
        ("other.zip", "is not a bundle, because it has no bundle.json; orchestrator bundle "),
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
        lambda document: {**document, "version": document["version"] + 1},
        lambda document: {**document, "format": [1]},
        lambda document: {**document, "runs": []},
        lambda document: {**document, "runs": {"a, seed 0": {"metrics": 3}}},
        lambda document: {**document, "codes": {}},
        lambda document: {
            **document,
            "runs": {**document["runs"], "c, seed 0": document["runs"]["a, seed 0"]},
        },
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
    archive = pack_directory(bundle, tmp_path / "bundle.zip")
    content = bytearray(archive.read_bytes())
    for position in range(200, len(content) // 2, 997):
        content[position] ^= 255
    archive.write_bytes(content)
    capsys.readouterr()
    assert main([str(archive), "--check"]) == 2
    assert f"{archive} cannot be opened (" in capsys.readouterr().out
