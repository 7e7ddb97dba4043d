"""`studies compare`: settings, trials and scores of two studies in one store."""

from pathlib import Path

import pytest

from orchestrator.studies.__main__ import main
from orchestrator.study.load import load_study
from orchestrator.study.sampling import SearchSample
from tests.support.fabricated_studies import PLAIN, fabricate, fabricate_study, write_study

OTHER = PLAIN.replace("study: plain", "study: other").replace("epochs: 3", "epochs: 4")
OTHER = OTHER.replace("flows: []}}}\n", "flows: [detail]}}}\n  c: {}\n")


def test_differences_are_listed(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (PLAIN, OTHER):
        fabricate(load_study(write_study(tmp_path, small_streets, text)), own_store)
    storage = ["--storage", str(own_store)]
    assert main(["compare", "plain", "other", *storage]) == 0
    output = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    assert ["base.training.epochs", "3", "4"] in cells
    assert ["variants.b.set.model.flows", "[]", '["detail"]'] in cells
    assert ["variants.c", "-", "{}"] in cells
    assert ["training.epochs", "3", "4", "2 of 2"] in cells
    assert ["model.flows", "[]", '["detail"]', "1 of 2"] in cells
    assert "only in other: 1 trial: c" in output
    (row,) = [line for line in cells if line[:1] == ["b"]]
    first, second = (float(text) for text in row[1:3])
    assert float(row[3]) == pytest.approx(second - first, abs=0.02)
    assert row[4] == "1"


def test_study_is_equal_to_its_own_file(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = fabricate_study(tmp_path, small_streets, PLAIN)
    assert main(["compare", "plain", str(file), "--storage", str(own_store)]) == 0
    output = capsys.readouterr().out
    assert "the studies have the same settings" in output
    assert output.count("same runs") == 2
    assert main(["compare", "plain", "plane", "--storage", str(own_store)]) == 2
    assert "no study is called 'plane'; did you mean" in capsys.readouterr().out


def test_equal_samples_of_searches_are_compared(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PLAIN.replace("compare_to: a", "kind: search")
    text += "sample: {training.learning_rate: {log: [1e-3, 1]}}\nsamples: 2\n"
    file = fabricate_study(tmp_path, small_streets, text)
    assert main(["compare", "plain", str(file), "--storage", str(own_store)]) == 0
    output = capsys.readouterr().out
    assert output.count("same runs") == 4
    assert all(f"{row}, sample {number} " in output for row in "ab" for number in range(2))


def test_samples_by_scores_are_compared_and_named_where_one_study_lacks_them(
    tmp_path: Path, small_streets: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "training.learning_rate"
    text = PLAIN.replace("compare_to: a", "kind: search")
    text += (
        f"sample: {{{key}: {{log: [1e-3, 1]}}}}\nsamples: {{count: 4, method: tpe, startup: 1}}\n"
    )
    for name, numbers in (("plain", (1,)), ("other", (1, 2, 3))):
        study = load_study(write_study(tmp_path, small_streets, text.replace("plain", name)))
        assert study.with_samples is not None
        rate = 0.1 if name == "plain" else 0.2
        later = {(row,): [SearchSample(n, {key: rate * n}) for n in numbers] for row in "ab"}
        fabricate(study.with_samples(later), own_store)
    assert main(["compare", "plain", "other", "--storage", str(own_store)]) == 0
    output = capsys.readouterr().out
    alone = "; ".join(f"{row}, sample {number}" for row in "ab" for number in (2, 3))
    assert f"only in other: 4 trials: {alone}" in " ".join(output.split())
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    assert [key, "0.1", "0.2", "2 of 4"] in cells
    assert "only in plain" not in output
