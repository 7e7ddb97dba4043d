"""Measures the latency of each finished trial's network on the device that the study trains on."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from models.latency import Latency, time_passes
from orchestrator.evaluation.missing import Evaluations, MissingEvaluation, finished_trials
from orchestrator.evaluation.scoring import StopReason, run_on_device
from orchestrator.evaluation.trained_model import TrainedModel, to_device
from orchestrator.scheduling.devices import worker_device
from orchestrator.study.evaluation_options import LATENCY, LatencyConfig
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.store import TrackingStore


@dataclass(frozen=True)
class MissingLatency(MissingEvaluation):
    """A finished trial of which the latency has not been measured. threads: of torch, on a CPU."""

    config: LatencyConfig
    threads: int

    @property
    def failure(self) -> str:
        return "its latency is not measured"

    def evaluate(
        self, model: TrainedModel, store: TrackingStore, bar: Progress, stop_reason: StopReason
    ) -> str:
        task = bar.add_task("latency", total=None)
        try:
            latency, device = run_on_device(
                _measure, model, (self.config, self.threads), self.threads, stop_reason
            )
        finally:
            bar.remove_task(task)
        metrics = {
            "latency_ms": latency.median,
            "latency_ms_p5": latency.percentile(5),
            "latency_ms_p95": latency.percentile(95),
        }
        if latency.memory_mib is not None:
            metrics["inference_memory_gib"] = latency.memory_mib / 1024
        tags = {"timed": self.config.tag, "device": device, "code": self.trial.code}
        with tempfile.TemporaryDirectory(prefix="latency-") as directory:
            file = Path(directory) / "milliseconds.json"
            file.write_text(json.dumps(latency.milliseconds), encoding="utf-8")
            log_evaluation(store, self.run_id, LATENCY, metrics, tags, Path(directory))
        return f"{latency.median:.3g} ms for a pass, on {device}"


def missing_latencies(
    study: Study,
    trials: Sequence[ResolvedTrial],
    run_ids: Mapping[str, str],
    evaluations: Callable[[str], Evaluations],
) -> Iterator[MissingLatency]:
    """Yield the missing measurements, once for each run. run_ids: of the finished trials, by trial
    name; evaluations: returns the recorded evaluations of a run."""
    config = study.config.latency
    if config is None:
        return
    threads = max(1, int(study.config.resources.cpus_per_worker))
    seen: set[str] = set()
    for trial, run_id in finished_trials(trials, run_ids):
        if run_id in seen:
            continue
        seen.add(run_id)
        if evaluations(run_id).get(LATENCY, {}).get("timed") != config.tag:
            yield MissingLatency(trial, run_id, LATENCY, "", config, threads)


def _measure(model: TrainedModel, config: LatencyConfig, threads: int) -> tuple[Latency, str]:
    """Measure in the precision and memory format of the training; return the device, too."""
    torch.set_num_threads(threads)
    height, width = config.size
    use_gpu = torch.cuda.is_available()

    def prepare() -> Callable[[], Any]:
        # On a CPU, the weights of the loaded network would not count as growth.
        loaded = model if use_gpu else replace(model, network=copy.deepcopy(model.network))
        numerics = to_device(loaded)
        shape = (config.batch, model.image_format.channels, height, width)
        images = numerics.to_memory_format(torch.randn(shape, device=numerics.device))
        network = loaded.network.eval()

        def run() -> Any:
            with numerics.autocast():
                return network(images)

        return run

    latency = time_passes(prepare, torch.device("cuda" if use_gpu else "cpu"))
    return latency, worker_device("cuda" if use_gpu else "cpu", 1 if use_gpu else threads)
