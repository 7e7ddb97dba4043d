"""Train a study under random faults and compare its records with those of an undisturbed one.

    python -m tests.support.soak [--faults N] [--seed N] [--kinds KIND ...] [--directory DIR]

Studies of twenty short trials are trained one after the other, under a random fault every few
seconds, until N faults have struck; each kind strikes once before any strikes again. After each
study, the tracking store must hold each trial once, finished, with the epochs, metrics and weights
of the undisturbed study, bit for bit. `clock` steps the clock of the whole machine, and is only
used when named.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from orchestrator.tracking.store import TrackingStore
from pipelines.preparation.embedded import prepare_streets
from tests.support.faults import STUDY, Site, study_file

KINDS = ("worker", "driver", "raylet", "node", "preemption", "server", "full_disk")
_MEASURED = {"images_per_second", "memory_gib", "val/seconds"}
_MEASURED |= {"trial/seconds", "trial/gpu_hours", "trial/worker_hours"}
_LIMIT_SECONDS = 4 * 3600


def records(tracking_uri: str, directory: Path) -> dict[str, dict[str, Any]]:
    """Return what a finished study has recorded, by trial: all that does not measure time.

    Raises AssertionError if a trial has not exactly one run, or a run is not finished.
    """
    store = TrackingStore(tracking_uri, None)
    client = store.client
    experiment = client.get_experiment_by_name(STUDY)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    states = Counter(run.info.status for run in runs)
    assert set(states) == {"FINISHED"}, dict(states)
    trials = [run for run in runs if run.data.tags["orchestrator.kind"] == "trial"]
    result = {}
    for run in trials:
        name = f"{run.data.tags['orchestrator.trial']}, seed {run.data.tags['orchestrator.seed']}"
        assert name not in result, f"{name} has two runs"
        metrics = {}
        for metric in run.data.metrics:
            if metric not in _MEASURED:
                history = client.get_metric_history(run.info.run_id, metric)
                metrics[metric] = sorted((entry.step, entry.value) for entry in history)
        folder = directory / run.info.run_id
        folder.mkdir(parents=True)
        model = store.download(f"runs:/{run.info.run_id}/model", folder)
        (weights,) = model.rglob("model.safetensors")
        result[name] = {
            "identity": run.data.tags["orchestrator.identity"],
            "parameters": run.data.params,
            "metrics": metrics,
            "weights": load_file(weights),
        }
    return result


def differences(ours: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """Return the differences of two studies' records, as text."""
    if ours.keys() != others.keys():
        return [f"trials {sorted(ours.keys() ^ others.keys())} are in one study only"]
    texts = []
    for name, trial in ours.items():
        other = others[name]
        for key in ("identity", "parameters"):
            if trial[key] != other[key]:
                texts.append(f"{name}: {key} is {trial[key]}, not {other[key]}")
        for metric in sorted(trial["metrics"].keys() | other["metrics"].keys()):
            here, there = (each["metrics"].get(metric) for each in (trial, other))
            if here != there:
                texts.append(f"{name}: {metric} is {here}, not {there}")
        texts += [
            f"{name}: weights {key} differ"
            for key, value in trial["weights"].items()
            if not torch.equal(value, other["weights"][key])
        ]
    return texts


def train(
    site: Site, chance: random.Random, faults: int, kinds: Sequence[str], log: Path
) -> Counter[str]:
    """Train a study under at most `faults` faults; return the faults by kind.

    Raises AssertionError if the command prints a traceback, or takes too long.
    """
    struck: Counter[str] = Counter()
    order: list[str] = []
    end = time.monotonic() + _LIMIT_SECONDS
    site.start_command()
    while site.status() != 0:
        assert time.monotonic() < end, site.output.read_text()[-3000:]
        if site.status() is not None:
            assert faults, site.output.read_text()[-3000:]
            time.sleep(1)
            site.start_command()
        if struck.total() >= faults:
            time.sleep(0.5)
            continue
        _wait_for_progress(site, chance)
        if site.status() == 0:
            break
        order = order or chance.sample(kinds, len(kinds))
        kind = order.pop()
        with log.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {kind}, {site.progress()} epochs printed\n")
        getattr(site, kind)(chance)
        struck[kind] += 1
    text = site.output.read_text()
    for trouble in ("Traceback", "internal error"):
        assert trouble not in text, text[max(0, text.index(trouble) - 2000) :][:6000]
    return struck


def _wait_for_progress(site: Site, chance: random.Random) -> None:
    """Wait for some seconds, and mostly until another epoch was printed."""
    before, must_progress = site.progress(), chance.random() < 0.7
    earliest = time.monotonic() + chance.uniform(1, 8)
    latest = time.monotonic() + 120
    while time.monotonic() < latest and site.status() is None:
        progressed = site.progress() > before or not must_progress
        if time.monotonic() > earliest and progressed:
            return
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "clock"], default=KINDS)
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args(arguments)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(options.seed)
    prepare_streets(directory / "streets", train=14, val=5, size=(32, 64))
    file = study_file(
        directory, directory / "streets", options.variants, options.seeds, options.epochs
    )
    struck: Counter[str] = Counter()
    undisturbed = None
    rounds = 0
    while undisturbed is None or struck.total() < options.faults:
        folder = directory / f"round-{rounds}"
        folder.mkdir()
        faults = 0 if undisturbed is None else options.faults - struck.total()
        with Site(folder, file) as site:
            kinds = [kind for kind in options.kinds if kind != "full_disk" or site.has_disk]
            struck += train(site, chance, faults, kinds, directory / "faults.txt")
            result = records(site.tracking_uri, folder / "models")
        if undisturbed is None:
            undisturbed = result
        elif texts := differences(result, undisturbed):
            print("\n".join(texts))
            return 1
        print(f"round {rounds}: {len(result)} trials; faults so far: {dict(struck)}", flush=True)
        rounds += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
