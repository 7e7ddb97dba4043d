"""How long does `--plan` take, from the command to the prompt?

    python -m benchmarks.planning [--rounds N]

A study of 10 different networks, at two learning rates, with ever more seeds: 20, 100 and 1000
trials. The command is timed as a whole, imports included, on a storage that knows the device's
times already, because a study's first plan measures them. The median of the rounds counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS = (20, 100, 1000)
_CELLS = 20
STUDY = """\
study: planning
base:
  data: {dataset: streets, crop: [64, 64]}
  training: {epochs: 5, batch: 8}
variants:
  baseline: {set: {model: {ppm: false, flows: []}}}
  strong: {set: {model: {flows: []}}}
  detail: {set: {model: {flows: [detail]}}}
  semantic: {set: {model: {flows: [semantic]}}}
  fenet: {set: {model: {flows: [detail, semantic]}}}
grid:
  model.backbone: [resnet18, dfnet1]
  training.learning_rate: [0.01, 0.02]
seeds: SEEDS
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning")
    parser.add_argument("--rounds", type=int, default=5, help="of each study (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        study = Path(directory) / "study.yaml"
        print(f"{'trials':>8}{'s':>8}")
        for trials in TRIALS:
            study.write_text(STUDY.replace("SEEDS", str(list(range(trials // _CELLS)))))
            _study(study)  # makes the data set, and probes the device, the first time
            seconds = statistics.median(_study(study) for _ in range(options.rounds))
            print(f"{trials:8}{seconds:8.2f}", flush=True)


def _study(study: Path) -> float:
    """Seconds of one command."""
    command = [sys.executable, "-m", "orchestrator.sweep", str(study), "--plan"]
    command += ["--storage", str(study.with_name("storage"))]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW")}
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
