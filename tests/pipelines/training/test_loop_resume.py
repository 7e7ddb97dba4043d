"""Checkpoints of the training loop: reproducing, stopping, resuming, and what is rejected."""

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import FENetConfig, LossConfig
from pipelines.data.dataset import open_dataset
from pipelines.network.checkpoint import CheckpointError
from pipelines.network.config import NetworkConfig
from pipelines.network.precision import Numerics
from pipelines.preparation.embedded import prepare_streets
from pipelines.training.config import OptimizerConfig
from pipelines.training.distributed import RankMismatchError
from pipelines.training.loop import Training, TrainingReport
from tests.support.small_training import CPU, WITHOUT_NORM, run, small_experiment
from tests.support.workers import join_group, run_workers


@pytest.fixture(scope="module")
def uninterrupted(
    small_streets: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, float]], dict[str, Tensor], Path]:
    """History and weights of `small_experiment()`, and its checkpoint after the first epoch."""
    checkpoint = tmp_path_factory.mktemp("undisturbed") / "checkpoint"
    return *run(small_experiment(), small_streets, save_at=checkpoint), checkpoint


@pytest.fixture(scope="module")
def finished(small_streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of `small_experiment(epochs=1)`."""
    checkpoint = tmp_path_factory.mktemp("finished") / "checkpoint"
    run(small_experiment(epochs=1), small_streets, save_at=checkpoint)
    return checkpoint


@pytest.mark.slow
def test_same_seed_is_bitwise_reproducible(
    small_streets: Path, uninterrupted: tuple[list[dict[str, float]], dict[str, Tensor], Path]
) -> None:
    first, second = uninterrupted, run(small_experiment(), small_streets)
    assert first[0] == second[0]
    for name, value in first[1].items():
        assert torch.equal(value, second[1][name]), name
    other = run(replace(small_experiment(), seed=4), small_streets)
    assert other[0] != first[0]


@pytest.mark.slow
def test_resuming_does_not_change_results(small_streets: Path, tmp_path: Path) -> None:
    """Resume from the end of an epoch and from within one, saved at different steps."""
    experiment = small_experiment(precision="bf16", accumulation=2)
    history, weights = run(experiment, small_streets, save_at=tmp_path / "1 0")
    for steps in (1, 2):
        other_history, other_weights = run(
            experiment, small_streets, save_at=tmp_path / f"0 {steps}", report_steps=steps
        )
        assert other_history == history
        assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())
    for checkpoint in tmp_path.iterdir():
        position = json.loads((checkpoint / "state.json").read_text())["position"]
        assert f"{position['epoch']} {position['step']}" == checkpoint.name
        resumed_history, resumed = run(experiment, small_streets, resume=checkpoint)
        assert resumed_history == history
        for name, value in weights.items():
            assert torch.equal(value, resumed[name]), name


@pytest.mark.slow
def test_reports_count_the_time_since_the_first_step(small_streets: Path, tmp_path: Path) -> None:
    experiment = replace(small_experiment(), model=WITHOUT_NORM)

    def seconds(resume: Path | None = None) -> list[float]:
        training = Training(experiment, open_dataset(small_streets), CPU)
        if resume is not None:
            training.restore(resume)
        found: list[float] = []

        def record(report: TrainingReport) -> None:
            found.append(report.seconds)
            if report.metrics is not None:
                assert report.metrics["seconds"] == report.seconds
            elif report.epoch == 2 and not (tmp_path / "within").exists():
                report.snapshot().write(tmp_path / "within")
                assert report.seconds > found[-2]

        training.run(record, report_steps=1)
        return found

    before = seconds()
    assert before == sorted(before)
    saved = json.loads((tmp_path / "within" / "state.json").read_text())
    used = saved["history"][-1]["seconds"] + saved["position"]["seconds"]
    assert saved["position"]["step"] > 0
    assert used in before
    assert seconds(tmp_path / "within")[0] > used


class DropoutNetwork(nn.Module):
    """A network that draws from the global torch generator in training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Dropout2d(0.5))
        self.classifier = nn.Conv2d(16, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


@pytest.mark.slow
def test_resuming_restores_the_torch_generator(
    small_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("own_module")
    module.__dict__["Dropping"] = DropoutNetwork
    monkeypatch.setitem(sys.modules, "own_module", module)
    experiment = replace(small_experiment(), model=NetworkConfig("own_module:Dropping"))
    history, weights = run(experiment, small_streets)
    run(experiment, small_streets, save_at=tmp_path / "checkpoint", report_steps=2)
    torch.manual_seed(1)  # a new process has another generator state
    resumed_history, resumed = run(experiment, small_streets, resume=tmp_path / "checkpoint")
    assert resumed_history == history
    for name, value in weights.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.slow
def test_resuming_restores_any_optimizer_and_the_average(
    small_streets: Path, tmp_path: Path
) -> None:
    optimizer = OptimizerConfig(
        "adamw", {"foreach": True}, no_decay=("bias",), rate_factors={"features.*": 0.5}
    )
    experiment = replace(
        small_experiment(
            optimizer=optimizer,
            schedule="one-cycle",
            schedule_by="iteration",
            ema=0.8,
            loss=LossConfig(terms=("dice", "cross-entropy")),
        ),
        model=WITHOUT_NORM,
    )
    history, weights = run(experiment, small_streets, save_at=tmp_path / "1")
    run(experiment, small_streets, save_at=tmp_path / "0", report_steps=2)
    for epoch in "01":
        resumed_history, resumed = run(experiment, small_streets, resume=tmp_path / epoch)
        assert resumed_history == history
        for name, value in weights.items():
            assert torch.equal(value, resumed[name]), name
    # What is scored and saved is the average, not the trained weights.
    saved = load_file(tmp_path / "1" / "model.safetensors")
    trained = load_file(tmp_path / "1" / "trained.safetensors")
    assert not torch.equal(saved["classifier.weight"], trained["classifier.weight"])
    training = Training(experiment, open_dataset(small_streets), CPU)
    training.restore(tmp_path / "1")
    assert torch.equal(training.scored_model.state_dict()["head.weight"], saved["head.weight"])
    last_training = replace(experiment.training, ema=None)
    other_history, _ = run(replace(experiment, training=last_training), small_streets)
    assert other_history[0]["train/loss"] == history[0]["train/loss"]
    assert other_history[0]["val/pixel_accuracy"] != history[0]["val/pixel_accuracy"]


@pytest.mark.slow
def test_stop_request_writes_a_resumable_checkpoint(
    small_streets: Path,
    uninterrupted: tuple[list[dict[str, float]], dict[str, Tensor], Path],
    tmp_path: Path,
) -> None:
    experiment = small_experiment()
    history, weights, _ = uninterrupted
    training = Training(experiment, open_dataset(small_streets), CPU)
    reports: list[TrainingReport] = []
    stop_requests = iter([False, True])
    training.run(reports.append, stop=lambda: next(stop_requests))
    (report,) = reports
    assert (report.epoch, report.metrics) == (1, None)
    assert training.position.step == 2
    report.snapshot().write(tmp_path / "checkpoint")
    resumed_history, resumed = run(experiment, small_streets, resume=tmp_path / "checkpoint")
    assert resumed_history == history
    for name, value in weights.items():
        assert torch.equal(value, resumed[name]), name


def _stopped_worker(rank: int, size: int, dataset: Path, out: Path) -> None:
    torch.set_num_threads(1)
    join_group(rank, size, out)
    training = Training(small_experiment(), open_dataset(dataset), CPU)
    # Only rank 1 receives the stop request.
    training.run(lambda report: None, stop=lambda: rank == 1)
    (out / f"{rank}.txt").write_text(f"{training.position.epoch} {training.position.step}")


@pytest.mark.slow
def test_stop_request_on_one_rank_stops_all_ranks_at_the_same_step(
    small_streets: Path, tmp_path: Path
) -> None:
    run_workers(_stopped_worker, (2, small_streets, tmp_path), 2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["0 1", "0 1"]


@pytest.mark.slow
def test_checkpoint_of_another_model_is_rejected(small_streets: Path, finished: Path) -> None:
    other = replace(
        small_experiment(), model=FENetConfig(backbone="dfnet1", channels=16, supervision=(3, 4))
    )
    with pytest.raises(CheckpointError, match=r"does not fit this model: .*checkpoint \(8"):
        run(other, small_streets, resume=finished)


@pytest.mark.slow
def test_checkpoint_of_another_experiment_is_rejected(
    small_streets: Path, finished: Path, tmp_path: Path
) -> None:
    # A moved data set is accepted; another content is rejected.
    moved = shutil.copytree(small_streets, tmp_path / "moved")
    run(small_experiment(epochs=1), moved, resume=finished)
    prepare_streets(tmp_path / "other", train=6, val=2, size=(32, 64))
    for dataset, experiment, difference in (
        (small_streets, small_experiment(epochs=3), r"training.epochs: 1 \(recorded\), 3 \(now\)$"),
        (
            small_streets,
            replace(small_experiment(epochs=1, batch=7), seed=4),
            r"training.batch: 6 \(recorded\), 7 \(now\); seed: 3 \(recorded\), 4 \(now\)$",
        ),
        (
            tmp_path / "other",
            small_experiment(epochs=1),
            r"data.dataset: \w{64} \(recorded\), \w{64} \(now\)$",
        ),
    ):
        with pytest.raises(CheckpointError, match="another experiment: " + difference):
            run(experiment, dataset, resume=finished)


@pytest.mark.slow
def test_checkpoint_records_init_content_and_resolved_precision(
    small_streets: Path, finished: Path, tmp_path: Path
) -> None:
    """The content of the initial weights and the resolved `auto` precision are compared."""
    weights = shutil.copy(finished / "model.safetensors", tmp_path / "weights")
    experiment = small_experiment(epochs=1, init=str(weights))
    run(experiment, small_streets, save_at=tmp_path / "checkpoint")
    moved = shutil.copy(weights, tmp_path / "moved")
    run(small_experiment(epochs=1, init=str(moved)), small_streets, resume=tmp_path / "checkpoint")
    save_file({name: value + 1 for name, value in load_file(weights).items()}, tmp_path / "weights")
    message = r"another experiment: training.init: \w{64} \(recorded\), \w{64} \(now\)$"
    with pytest.raises(CheckpointError, match=message):
        run(experiment, small_streets, resume=tmp_path / "checkpoint")

    run(small_experiment(epochs=1, precision="auto"), small_streets, save_at=tmp_path / "auto")
    other = {"bf16": "fp32", "fp32": "bf16"}[Numerics.choose(CPU).precision]
    with pytest.raises(CheckpointError, match=r"another experiment: training\.precision: "):
        run(small_experiment(epochs=1, precision=other), small_streets, resume=tmp_path / "auto")


def _disagreeing_worker(rank: int, dataset: Path, out: Path, checkpoint: Path | None) -> None:
    torch.set_num_threads(1)
    message = ""
    join_group(rank, 2, out)
    try:
        # The networks have equal shapes, so only the explicit check can detect the difference.
        experiment = replace(small_experiment(), seed=3 if checkpoint else rank)
        training = Training(experiment, open_dataset(dataset), CPU)
        if checkpoint and rank == 1:
            training.restore(checkpoint)
        training.run(lambda report: None)
    except RankMismatchError as error:
        message = str(error)
    finally:
        (out / f"{rank}.txt").write_text(message)


@pytest.mark.slow
@pytest.mark.parametrize("at_another_position", [False, True])
def test_disagreeing_ranks_refuse_to_train(
    small_streets: Path,
    uninterrupted: tuple[list[dict[str, float]], dict[str, Tensor], Path],
    tmp_path: Path,
    at_another_position: bool,
) -> None:
    checkpoint = uninterrupted[2] if at_another_position else None
    run_workers(_disagreeing_worker, (small_streets, tmp_path, checkpoint), 2)
    difference = ("position.epoch" if checkpoint else "seed") + ": 0 (rank 0), 1 (rank 1)"
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert message.startswith("rank 1 disagrees with rank 0 about what to train: ")
        assert difference in message


@pytest.mark.slow
def test_damaged_checkpoint_is_rejected(
    small_streets: Path, finished: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(finished, tmp_path / "checkpoint")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        run(small_experiment(), small_streets, resume=checkpoint)
