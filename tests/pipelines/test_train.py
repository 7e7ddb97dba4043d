"""`python -m pipelines.train`: training into a directory and resuming in it."""

import contextlib
import gc
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.nn.parallel import DistributedDataParallel

from pipelines.data.dataset import open_dataset
from pipelines.evaluation.counts import read_counts
from pipelines.serving import SegmentationModel
from pipelines.train import main
from tests.support.workers import run_workers

EXPERIMENT = """\
data: {crop: [32, 48]}
model: {backbone: dfnet1, channels: 8}
training: {epochs: 3, batch: 6, learning_rate: 1e-2, precision: fp32}
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use one thread here and in subprocesses; more threads change the order of summation."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    return path


def train(experiment: Path, dataset: Path, out: str, *more: str) -> int:
    directory = str(experiment.parent / out)
    return main([str(experiment), "--dataset", str(dataset), "--out", directory, *more])


def history(out: Path) -> list[dict[str, float]]:
    nondeterministic = ("images_per_second", "memory_gib", "val/seconds", "seconds")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in nondeterministic} for line in lines
    ]


@pytest.mark.slow
def test_one_fold_is_trained_and_scored(
    experiment: Path, small_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = EXPERIMENT.replace("data: {", "data: {folds: 3, fold: 1, ")
    experiment.write_text(text.replace("epochs: 3", "epochs: 1"))
    assert train(experiment, small_streets, "fold") == 0
    dataset = open_dataset(small_streets)
    counts = read_counts(experiment.parent / "fold" / "results" / "counts.arrow")
    assert list(counts.identifiers) == dataset.split("train:fold-1-of-3").identifiers
    assert len(counts.identifiers) == 5
    assert "train:without-fold-1-of-3: 9 images" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_training_resumes_with_equal_results(
    experiment: Path, small_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(experiment, small_streets, "whole") == 0
    whole = experiment.parent / "whole"
    assert [entry["epoch"] for entry in history(whole)] == [1, 2, 3]
    assert (whole / "results" / "panels.png").exists()
    assert load_file(whole / "best" / "model.safetensors")
    assert "epoch 3/3  loss" in capsys.readouterr().out

    # Checkpoints are model directories.
    image = np.zeros((32, 48, 3), np.uint8)
    assert SegmentationModel(whole / "last").predict(image).shape == (32, 48)

    # Kill a second training in its second epoch, then resume it.
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", str(experiment), "--dataset", str(small_streets)]
        + ["--out", str(experiment.parent / "parts"), "--checkpoint-steps", "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert next(line for line in process.stdout if line.startswith("epoch 1/3"))
    process.kill()
    process.communicate()
    assert train(experiment, small_streets, "parts") == 0
    assert "resuming after epoch" in capsys.readouterr().out
    parts = experiment.parent / "parts"
    assert history(parts) == history(whole)
    for checkpoint in ("last", "best"):
        one, other = (load_file(d / checkpoint / "model.safetensors") for d in (whole, parts))
        assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.slow
def test_training_continues_from_the_last_whole_checkpoint(
    experiment: Path, small_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(experiment, small_streets, "out", "--keep", "3") == 0
    out = experiment.parent / "out"
    whole = history(out), load_file(out / "last" / "model.safetensors")
    folders = sorted((out / "checkpoints").iterdir())
    assert len(folders) == 3
    capsys.readouterr()
    for cut, continues in ((folders[2:], "resuming after epoch 2"), (folders, "from the start")):
        for folder in cut:
            (folder / "state.json").write_bytes(b"")
        assert train(experiment, small_streets, "out", "--keep", "3") == 0
        printed = capsys.readouterr().out
        assert continues in printed
        assert printed.count("is damaged (state.json is incomplete); renamed to") == len(cut)
        weights = load_file(out / "last" / "model.safetensors")
        assert history(out) == whole[0]
        assert all((weights[name] == tensor).all() for name, tensor in whole[1].items())


@pytest.mark.slow
def test_training_with_two_ranks_under_torchrun(experiment: Path, small_streets: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        + ["-m", "pipelines.train", str(experiment), "--dataset", str(small_streets)]
        + ["--out", str(experiment.parent / "two"), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("epoch 3/3") == 1
    assert train(experiment, small_streets, "one") == 0
    one, two = (history(experiment.parent / name) for name in ("one", "two"))
    assert two[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=1e-3)


def _failing_worker(rank: int, experiment: Path, dataset: Path, port: int) -> None:
    """Train as one of two ranks; fail if a network is left when the process group ends."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    left: list[object] = []
    destroy = dist.destroy_process_group

    def checked_destroy() -> None:
        left.extend(each for each in gc.get_objects() if type(each) is DistributedDataParallel)
        destroy()

    message = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(message):
        patch.setattr(dist, "destroy_process_group", checked_destroy)
        assert train(experiment, dataset, f"out-{rank}", "--device", "cpu") == 2
    assert left == []
    assert message.getvalue().startswith("error: loss nan in epoch 1, step 2")


@pytest.mark.slow
def test_failed_training_frees_its_network_before_it_leaves_the_group(
    experiment: Path, small_streets: Path
) -> None:
    experiment.write_text(EXPERIMENT.replace("1e-2", "1e30"))
    run_workers(_failing_worker, (experiment, small_streets, get_free_port()), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epoch: 3}", "experiment.yaml: unknown key training.epoch; known: epochs"),
        ("training: [", "experiment.yaml: while parsing"),
        ("model: {network: 'no.module:Net'}", "network no.module:Net: cannot import no.module"),
    ],
)
def test_invalid_experiment_files_are_reported(
    experiment: Path,
    small_streets: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    experiment.write_text(text)
    assert train(experiment, small_streets, "out") == 2
    assert message in capsys.readouterr().err
    assert not (experiment.parent / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "experiment.yaml"], "--out experiment.yaml: experiment.yaml is a file; choose"),
        (["--cache", "experiment.yaml/in"], "experiment.yaml is a file; choose a directory"),
        (["--keep", "0"], "--keep must be at least 1, received 0"),
        (["--device", "cuda"], "--device cuda: torch finds no GPU"),
    ],
)
def test_invalid_options_are_reported(
    experiment: Path,
    small_streets: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(experiment.parent)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert train(experiment, small_streets, "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (experiment.parent / "out").exists()


@pytest.mark.slow
def test_directory_of_another_experiment_is_not_overwritten(
    experiment: Path, small_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment.write_text(EXPERIMENT.replace("epochs: 3", "epochs: 1"))
    assert train(experiment, small_streets, "out") == 0
    before = (experiment.parent / "out" / "last" / "model.safetensors").read_bytes()
    experiment.write_text(EXPERIMENT.replace("epochs: 3", "epochs: 2"))
    assert train(experiment, small_streets, "out") == 2
    assert (
        "holds another experiment (training.epochs: 1 (recorded), 2 (now))"
        in capsys.readouterr().err
    )
    assert (experiment.parent / "out" / "last" / "model.safetensors").read_bytes() == before
