"""How long does the command `orchestrator.sweep --plan` take?

    python -m benchmarks.planning [--rounds N]

Plans a study of 10 networks at two learning rates with an increasing number of seeds: 20, 100 and
1000 trials. Prints the median wall time of the whole command, including imports. The device's
timings are already stored, because a study's first plan measures them.
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
_CONFIGURATIONS = 20
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
    parser.add_argument("--rounds", type=int, default=5, help="rounds per study; default: 5")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        study = Path(directory) / "study.yaml"
        print(f"{'trials':>8}{'s':>8}")
        for trials in TRIALS:
            study.write_text(STUDY.replace("SEEDS", str(list(range(trials // _CONFIGURATIONS)))))
            _plan(study)  # the first plan renders the data set and times the device
            seconds = statistics.median(_plan(study) for _ in range(options.rounds))
            print(f"{trials:8}{seconds:8.2f}", flush=True)


def _plan(study: Path) -> float:
    """Run the command and return its seconds."""
    command = [sys.executable, "-m", "orchestrator.sweep", str(study), "--plan"]
    command += ["--storage", str(study.with_name("storage"))]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW")}
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
