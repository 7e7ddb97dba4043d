"""Ray workers import this project's packages, whatever the working directory holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import ray
from orchestrator.cluster.connect import connect, disconnect

def where():
    import models, sys
    return models.__file__, sys.path[0]

connect(None, {})
print(*ray.get(ray.remote(where).remote()))
disconnect()
"""


@pytest.mark.slow
def test_ray_workers_import_this_project_next_to_a_package_with_the_same_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('imported')")
    process = subprocess.run(
        [sys.executable, "-P", "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    file, first = process.stdout.split()
    assert Path(file) == ROOT / "models" / "__init__.py"
    assert Path(first) == tmp_path, "Ray no longer puts the working directory first"
