"""The training loop: rank counts, resuming, determinism, stopping and errors."""

import copy
import functools
import json
import math
import shutil
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from models import FENetConfig, LossConfig
from pipelines.data.config import AugmentationConfig, DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.device_batches import prefetch_to_device
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import NonFiniteLogitsError
from pipelines.network.checkpoint import CheckpointError
from pipelines.network.config import NetworkConfig
from pipelines.network.precision import Numerics
from pipelines.preparation.embedded import prepare_streets
from pipelines.training.config import OptimizerConfig, TrainingConfig
from pipelines.training.distributed import RankMismatchError, keep_gradient_strides
from pipelines.training.experiment import Experiment
from pipelines.training.loop import NonFiniteLossError, Training, TrainingReport
from pipelines.training.results import write_results
from tests.support.workers import process_group, run_workers

CPU = torch.device("cpu")


def small_experiment(**training: Any) -> Experiment:
    """Return an experiment with auxiliary supervision, mining, ignored pixels and dropout."""
    return Experiment(
        data=DataConfig(crop=(32, 48)),
        model=FENetConfig(backbone="dfnet1", channels=8, supervision=(3, 4)),
        training=TrainingConfig(
            **{"epochs": 2, "batch": 6, "learning_rate": 0.01, "precision": "fp32", **training}
        ),
        evaluation=EvaluationConfig(batch=2),
        seed=3,
    )


def run(
    experiment: Experiment,
    dataset: Path,
    resume: Path | None = None,
    save_at: Path | None = None,
    report_steps: int | None = None,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train; return the deterministic metrics of each epoch and the final weights."""
    training = Training(experiment, open_dataset(dataset), CPU)
    if resume is not None:
        training.restore(resume)

    reports: list[TrainingReport] = []

    def record(report: TrainingReport) -> None:
        reports.append(report)
        # The first report is at the end of the first epoch or, with `report_steps`, within it.
        if save_at is not None and len(reports) == 1:
            report.snapshot().write(save_at)

    training.run(record, report_steps)
    nondeterministic = ("images_per_second", "memory_gib", "val/seconds", "seconds")
    history = [
        {name: value for name, value in metrics.items() if name not in nondeterministic}
        for metrics in training.history
    ]
    return history, {k: v.clone() for k, v in training.model.state_dict().items()}


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


@contextmanager
def double_precision() -> Iterator[None]:
    """Compute everything in float64, where remaining differences are not rounding errors."""
    to_memory_format = Numerics.to_memory_format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(
            Numerics,
            "to_memory_format",
            lambda self, images: to_memory_format(self, images).double(),
        )
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def _run_twice(experiment: Experiment, dataset: Path) -> list[Any]:
    """Return history and weights in float32, then in float64."""
    single = run(experiment, dataset)
    with double_precision():
        return [single, run(experiment, dataset)]


def _three_steps(accumulation: int) -> Experiment:
    return small_experiment(batch=14, epochs=3, accumulation=accumulation)


@functools.cache
def _single_process(dataset: Path, accumulation: int) -> list[Any]:
    return _run_twice(_three_steps(accumulation), dataset)


def _worker(rank: int, size: int, experiment: Experiment, dataset: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with process_group(rank, size, out):
        torch.save(_run_twice(experiment, dataset), out / f"{rank}.pt")


def run_on_ranks(size: int, experiment: Experiment, dataset: Path, out: Path) -> list[Any]:
    out.mkdir()
    run_workers(_worker, (size, experiment, dataset, out), size)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.slow
# Uneven shares: 14 is not divisible by 4 ranks, nor its parts of 7 by 2 ranks.
@pytest.mark.parametrize(("size", "accumulation"), [(2, 1), (4, 1), (2, 2)])
def test_ranks_take_the_same_steps_as_one_process(
    small_streets: Path, tmp_path: Path, size: int, accumulation: int
) -> None:
    # Three steps. In float32 the first two losses agree to the last digit; updates differ by
    # rounding, which can flip a ReLU or a mined pixel. That changed one loss term by 1.5e-5 and,
    # where batch norm sees seven values (the pyramid's single bin), a variance by 1.3e-2.
    # In float64 these differences vanish, but a bug would remain visible.
    single_process = _single_process(small_streets, accumulation)
    ranks = run_on_ranks(size, _three_steps(accumulation), small_streets, tmp_path / "out")
    tolerances = ((1e-4, 1e-2, 3e-2), (1e-12, 1e-12, 1e-11))
    for precision, (loss_tolerance, score_tolerance, weight_tolerance) in enumerate(tolerances):
        (history, weights), (rank_history, rank_weights) = (
            single_process[precision],
            ranks[0][precision],
        )
        for results in ranks:
            assert results[precision][0] == rank_history
            for name, value in results[precision][1].items():
                assert torch.equal(value, rank_weights[name]), name
        for expected, actual in zip(history, rank_history, strict=True):
            for name in (name for name in expected if name.startswith("train/")):
                assert actual[name] == pytest.approx(expected[name], rel=loss_tolerance), name
            assert actual["val/miou"] == pytest.approx(expected["val/miou"], abs=score_tolerance)
        for name, value in weights.items():
            difference = (rank_weights[name].double() - value.double()).abs().max()
            # Values near 0, such as a bias, are only as exact as the values they are added to.
            assert difference <= weight_tolerance * (value.double().abs().max() + 0.1), name
        for name in ("train/loss/main", "train/loss/stage3", "train/loss/stage4"):
            assert rank_history[0][name] == pytest.approx(
                history[0][name], rel=loss_tolerance / 100
            )


@pytest.mark.slow
def test_ranks_take_the_same_steps_with_another_recipe(small_streets: Path, tmp_path: Path) -> None:
    # AdamW divides by small second moments, so that rounding grows faster than with SGD: only
    # float64 can tell a bug from it.
    experiment = small_experiment(
        batch=14,
        epochs=3,
        accumulation=2,
        learning_rate=0.002,
        weight_decay=0.01,
        optimizer=OptimizerConfig(
            "adamw", no_decay=("norm", "bias"), rate_factors={"backbone.*": 0.3}
        ),
        schedule="one-cycle",
        schedule_by="iteration",
        ema=0.9,
        loss=LossConfig(terms=("dice", "cross-entropy")),
    )
    (_, (history, weights)) = _run_twice(experiment, small_streets)
    for _, (rank_history, rank_weights) in run_on_ranks(
        2, experiment, small_streets, tmp_path / "out"
    ):
        for expected, actual in zip(history, rank_history, strict=True):
            assert actual == pytest.approx(expected, rel=1e-9)
        for name, value in weights.items():
            assert torch.allclose(rank_weights[name], value, rtol=1e-8, atol=1e-9), name


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


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (5, 5)])
def test_batches_are_loaded_by_a_thread_for_each_core(
    small_streets: Path, cores: int, threads: int
) -> None:
    default = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        training = Training(small_experiment(batch=2), open_dataset(small_streets), CPU)
        for batches in (training.batches.epoch(0), iter(training.validation or [])):
            next(batches)
            loading = [each for each in threading.enumerate() if each.name.startswith("loading")]
            assert 0 < len(loading) <= 2 * threads
        assert training.threads == threads
    finally:
        torch.set_num_threads(default)


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
    small_streets: Path, tmp_path: Path, without_norm: NetworkConfig
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
        model=without_norm,
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
    with process_group(rank, size, out):
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
def test_training_reduces_the_loss(small_streets: Path) -> None:
    experiment = replace(
        small_experiment(epochs=16, batch=7, learning_rate=0.05),
        model=FENetConfig(backbone="dfnet1", channels=32, ppm=False, flows=()),
    )
    plain = AugmentationConfig((1, 1), 0, 0, 0, 0, 0, (0, 0))
    data = DataConfig(crop=(32, 64), validation_split="train", augmentation=plain)
    evaluation = EvaluationConfig(batch=7, every=4)
    history, _ = run(replace(experiment, data=data, evaluation=evaluation), small_streets)
    assert history[-1]["train/loss"] < 0.8 * history[0]["train/loss"]
    assert history[-1]["val/pixel_accuracy"] > 0.5
    assert history[-1]["val/miou"] > 0.12
    assert history[-1]["val/best_miou"] == max(entry["val/miou"] for entry in history[3::4])
    rates = [entry["learning_rate"] for entry in history]
    assert rates == pytest.approx([0.05 * (1 - epoch / 16) for epoch in range(16)])


@pytest.mark.slow
def test_last_epoch_is_always_validated(small_streets: Path) -> None:
    experiment = replace(small_experiment(epochs=3), evaluation=EvaluationConfig(every=2))
    history, _ = run(experiment, small_streets)
    assert ["val/miou" in entry for entry in history] == [False, True, True]


@pytest.mark.parametrize("shape", [(6, 4, 1, 1), (6, 1, 3, 3), (1, 4, 3, 3), (6, 4, 3, 3)])
def test_gradients_have_the_strides_of_their_parameters(shape: tuple[int, ...]) -> None:
    """Convolutions of images with channels last return such gradients."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(shape))])
    outputs, inputs, height, width = shape
    gradient = torch.randn(outputs, height, width, inputs).permute(0, 3, 1, 2)
    assert gradient.stride() != model[0].stride()
    keep_gradient_strides(model)
    model[0].backward(gradient)
    assert torch.equal(model[0].grad, gradient)
    assert model[0].grad.stride() == model[0].stride()


@pytest.mark.slow
def test_steps_end_within_an_epoch(small_streets: Path, tmp_path: Path) -> None:
    """The last epoch has 2 of 3 steps, and resumes bit for bit from its first one."""
    experiment = replace(
        small_experiment(epochs=None, steps=5, ema=0.9, schedule_by="iteration"),
        evaluation=EvaluationConfig(every=3),
    )
    history, weights = run(experiment, small_streets)
    assert ["val/miou" in entry for entry in history] == [False, True]
    assert history[-1]["learning_rate"] == pytest.approx(0.01 * (1 - 4 / 5))
    reports: list[TrainingReport] = []

    def keep_within_last_epoch(report: TrainingReport) -> None:
        reports.append(report)
        if report.metrics is None and report.epoch == 2:
            report.snapshot().write(tmp_path / "checkpoint")

    Training(experiment, open_dataset(small_streets), CPU).run(keep_within_last_epoch, 1)
    # Steps 1 and 2 of the first epoch and its end, then step 1 and the end of the second.
    assert [report.metrics is None for report in reports] == [True, True, False, True, False]
    resumed, resumed_weights = run(experiment, small_streets, resume=tmp_path / "checkpoint")
    assert resumed == history
    for name, value in weights.items():
        assert torch.equal(value, resumed_weights[name]), name


@pytest.mark.slow
def test_joined_splits_train_without_validation(small_streets: Path, tmp_path: Path) -> None:
    data = DataConfig(
        crop=(32, 48), train_split="train+val", validation_split=None, class_uniform=0.5
    )
    experiment = replace(small_experiment(epochs=1), data=data)
    training = Training(experiment, open_dataset(small_streets), CPU)
    assert len(training.batches) == math.ceil(19 / 6)
    reports: list[TrainingReport] = []
    training.run(reports.append)
    (report,) = reports
    assert report.scores is None
    assert report.metrics is not None
    assert not [name for name in report.metrics if name.startswith("val/")]
    write_results(tmp_path / "results", training, report)
    assert not list((tmp_path / "results").iterdir())


def test_invalid_split_names_are_rejected() -> None:
    for name in ("", "train+", "train+train"):
        with pytest.raises(ValueError, match="train_split must name a split, or different splits"):
            DataConfig(train_split=name)


@pytest.mark.slow
def test_total_loss_is_the_weighted_sum_of_its_terms(small_streets: Path) -> None:
    loss = LossConfig(auxiliary_weight=0.5)
    history, _ = run(small_experiment(epochs=1, loss=loss), small_streets)
    entry = history[0]
    auxiliary = entry["train/loss/stage3"] + entry["train/loss/stage4"]
    assert entry["train/loss"] == pytest.approx(entry["train/loss/main"] + 0.5 * auxiliary)


class NetworkWithoutNorm(nn.Module):
    """A network with an auxiliary head and without batch norm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, classes, 1)
        self.head = nn.Conv2d(8, classes, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]] | Tensor:
        features = torch.tanh(self.features(images))
        logits = self.classifier(features)
        return (logits, [self.head(features)]) if self.training else logits


@pytest.fixture
def without_norm(monkeypatch: pytest.MonkeyPatch) -> NetworkConfig:
    module = types.ModuleType("own_module")
    module.__dict__["Network"] = NetworkWithoutNorm
    monkeypatch.setitem(sys.modules, "own_module", module)
    return NetworkConfig("own_module:Network")


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [LossConfig(), LossConfig(share=1), LossConfig(terms=("dice", "lovasz", "cross-entropy"))],
    ids=["mined", "plain", "sum"],
)
def test_accumulation_computes_the_whole_batch(
    small_streets: Path, without_norm: NetworkConfig, loss: LossConfig
) -> None:
    """Images have different numbers of labeled and of mined pixels."""
    results = {}
    for parts in (1, 2, 7):
        experiment = small_experiment(
            batch=14, accumulation=parts, loss=loss, learning_rate=1.0, gradient_clip=0.5
        )
        with double_precision():
            results[parts] = run(replace(experiment, model=without_norm), small_streets)
    history, weights = results.pop(1)
    for other_history, other_weights in results.values():
        for expected, actual in zip(history, other_history, strict=True):
            assert actual == pytest.approx(expected, rel=1e-12)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=1e-11, atol=1e-12)


def test_every_accumulated_step_has_a_whole_batch(
    small_streets: Path, without_norm: NetworkConfig
) -> None:
    """The epoch of 14 images ends with 6 of them in a batch of 8, filled up with 2 others."""
    losses = []
    for parts in (1, 4):
        experiment = small_experiment(epochs=1, batch=8, accumulation=parts, learning_rate=1.0)
        with double_precision():
            history, _ = run(replace(experiment, model=without_norm), small_streets)
        losses.append(history[0]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_loss_of_an_accumulated_step_is_the_mean_over_all_labeled_pixels(
    small_streets: Path, without_norm: NetworkConfig
) -> None:
    experiment = small_experiment(epochs=1, batch=14, accumulation=7, loss=LossConfig(share=1))
    experiment = replace(experiment, model=without_norm)
    training = Training(experiment, open_dataset(small_streets), CPU)
    parts = list(prefetch_to_device(training.batches.epoch(0, 0), training.augmentation, CPU))
    model = copy.deepcopy(training.model).train().double()
    outputs = [model(part.images.double()) for part in parts]
    labels = torch.cat([part.labels for part in parts])
    assert len({int((image != 255).sum()) for image in labels}) > 2
    expected = 0.0
    for logits in (
        torch.cat([main for main, _ in outputs]),
        torch.cat([auxiliary[0] for _, auxiliary in outputs]),
    ):
        size = (labels.shape[1], labels.shape[2])
        resized = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        expected += functional.cross_entropy(resized, labels, ignore_index=255).item()
    training.run(lambda report: None)
    assert training.history[0]["train/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_batch_norm_statistics_follow_each_part_once(small_streets: Path) -> None:
    experiment = small_experiment(epochs=1, batch=14, accumulation=2)
    training = Training(experiment, open_dataset(small_streets), CPU)
    training.run(lambda report: None)
    counters = [
        value
        for name, value in training.model.state_dict().items()
        if name.endswith("num_batches_tracked")
    ]
    assert counters
    assert all(counter == 2 for counter in counters)


@pytest.mark.slow
@pytest.mark.parametrize("factors", [{}, {"backbone.*": 0.0, "*.bias": 0.0}])
def test_gradient_clipping_bounds_the_update(
    small_streets: Path, factors: dict[str, float]
) -> None:
    """Parameters that never move do not count."""

    def update_norm(clip: float | None) -> float:
        experiment = small_experiment(
            epochs=1,
            batch=14,
            learning_rate=1.0,
            weight_decay=0.0,
            gradient_clip=clip,
            optimizer=OptimizerConfig("sgd", rate_factors=factors),
        )
        training = Training(experiment, open_dataset(small_streets), CPU)
        before = [parameter.detach().clone() for parameter in training.model.parameters()]
        training.run(lambda report: None)
        after = [parameter.detach() for parameter in training.model.parameters()]
        squares = [(a - b).double().square().sum() for a, b in zip(after, before, strict=True)]
        return float(torch.stack(squares).sum().sqrt())

    assert update_norm(None) > 0.02
    assert update_norm(0.01) == pytest.approx(0.01, rel=1e-3)


def test_non_finite_loss_error_names_step_and_samples(small_streets: Path) -> None:
    training = Training(small_experiment(), open_dataset(small_streets), CPU)
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.nan)
    message = r"loss nan in epoch 1, step 1 at learning rate 0\.01, samples (\S+, ){5}\S+$"
    with pytest.raises(NonFiniteLossError, match=message):
        training.run(lambda report: None)


def test_non_finite_logits_after_the_last_step_are_an_error(small_streets: Path) -> None:
    """The last loss is finite, so only the evaluation can detect the destroyed weights."""
    experiment = small_experiment(epochs=1, batch=14, learning_rate=1e30)
    with pytest.raises(NonFiniteLogitsError, match="the network predicts NaN"):
        run(experiment, small_streets)


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
    with process_group(rank, 2, out):
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
