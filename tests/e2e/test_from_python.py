"""The example of a study in Python."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.planning.measurements import save_measurements
from orchestrator.scheduling.devices import worker_device
from tests.support.planned_study import resolved, timed, write_planned_study

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_example_runs_to_its_end(tmp_path: Path, small_streets: Path, own_store: Path) -> None:
    """It prints the frames and the tables of a finished study, and nothing of the libraries."""
    text = (ROOT / "examples" / "from_python.py").read_text()
    script = tmp_path / "from_python.py"
    cache = str(tmp_path / "cache")
    changes = {
        'DATASET = "streets"': f"DATASET = {str(small_streets)!r}",
        '"seeds": [0, 1]': '"seeds": [0], "report": {"figures": []}',
        '"workers": 1}': f'"workers": 1, "concurrent_trials": 1, "node_cache": {cache!r}}}',
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    script.write_text(text)
    planned, trials = resolved(write_planned_study(tmp_path, small_streets))
    measured = replace(timed(trials[0], planned), device=worker_device("cpu", 1.0))
    save_measurements(own_store, [measured])  # otherwise, the plan starts Ray to time a few steps
    process = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")
    output = process.stdout
    assert "from-python: 2 trials: 2 missing" in output
    assert output.count("with both flows") >= 2  # in the frame and in the report
    assert not [word for word in ("raylet", "INFO", "WARNING", "ray.init") if word in output]
    assert (tmp_path / "report" / "report.html").is_file()
