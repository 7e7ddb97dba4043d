"""Runs that are killed several times at random moments equal an undisturbed run bit for bit."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.train import main
from tests.support.workers import FORKED

EXPERIMENT = """\
data: {crop: [32, 48]}
model: {backbone: dfnet1, channels: 8, supervision: [3, 4]}
training: {epochs: 4, batch: 7, learning_rate: 1e-2, schedule_by: iteration, precision: fp32}
"""
MEASURED = ("images_per_second", "memory_gib", "val/seconds", "seconds")


def _train(arguments: list[str], rank: int, size: int, port: int) -> None:
    """Train as one rank, with the environment that torchrun sets."""
    torch.set_num_threads(1)
    if size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os._exit(main(arguments))


class Placement:
    """Workers that train one experiment in one folder, and can be restarted."""

    def __init__(self, experiment: Path, dataset: Path, out: Path, size: int) -> None:
        self.out = out
        self.size = size
        self.arguments = [str(experiment), "--dataset", str(dataset), "--out", str(out)]
        self.arguments += ["--checkpoint-steps", "1", "--device", "cpu"]

    def start(self) -> list[Any]:
        from torch.distributed.elastic.utils.distributed import get_free_port

        port = get_free_port()
        workers = [
            FORKED.Process(target=_train, args=(self.arguments, rank, self.size, port))
            for rank in range(self.size)
        ]
        for worker in workers:
            worker.start()
        return workers

    def finish(self) -> list[int | None]:
        """Train to the end and return the exit codes of all workers."""
        workers = self.start()
        for worker in workers:
            worker.join(120)
        return [worker.exitcode for worker in workers]

    def kill(self, chance: random.Random) -> bool:
        """Start the workers, then kill them one by one during or just after a checkpoint write.

        Return whether all of them were still running.
        """
        workers = self.start()
        self._watch(workers, writes=chance.randrange(1, 4))
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 0.3))
        alive = all(worker.is_alive() for worker in workers)
        chance.shuffle(workers)
        for worker in workers:
            worker.kill()
            worker.join(20)
        return alive

    def _watch(self, workers: list[Any], writes: int) -> None:
        """Wait until checkpoint number `writes` is being written or the training ends."""
        partial, end = False, time.monotonic() + 60
        while writes and all(worker.is_alive() for worker in workers):
            assert time.monotonic() < end, "no checkpoint was written"
            before, partial = partial, any((self.out / "checkpoints").glob("*.partial"))
            writes -= partial and not before
            time.sleep(0.002)  # the workers need the processor


def result(out: Path) -> tuple[list[dict[str, float]], dict[str, dict[str, torch.Tensor]]]:
    """Return the metrics of each epoch, except time and memory, and both checkpoints' tensors."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    history = [
        {name: value for name, value in json.loads(line).items() if name not in MEASURED}
        for line in lines
    ]
    files = ("last/model", "last/optimizer", "best/model", "best/optimizer")
    return history, {file: load_file(out / f"{file}.safetensors") for file in files}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kills"), [(1, 4), (2, 3)])
def test_killed_run_equals_an_undisturbed_run(
    small_streets: Path, tmp_path: Path, size: int, kills: int
) -> None:
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(EXPERIMENT)
    undisturbed = Placement(experiment, small_streets, tmp_path / "whole", size)
    assert undisturbed.finish() == [0] * size

    killed = Placement(experiment, small_streets, tmp_path / "killed", size)
    chance = random.Random(size)
    was_running = [killed.kill(chance) for _ in range(kills)]
    assert sum(was_running) >= 3
    assert killed.finish() == [0] * size

    (history, weights), (other_history, other_weights) = result(undisturbed.out), result(killed.out)
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert other_history == history
    for file, tensors in weights.items():
        assert tensors.keys() == other_weights[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other_weights[file][name]), (file, name)
    assert (killed.out / "results" / "panels.png").exists()
    assert not list(killed.out.rglob("*.partial"))
