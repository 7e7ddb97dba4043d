"""Every study file in the project resolves to its last key, and the examples run."""

from pathlib import Path

import pytest
import torch

from orchestrator.study_file import load_study
from pipelines.network import NetworkConfig, build_network, check_network

ROOT = Path(__file__).parent.parent
STUDIES = [ROOT / "ablations.yaml", *ROOT.glob("studies/*.yaml"), *ROOT.glob("examples/*.yaml")]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_study_resolves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    plan = load_study(path)
    assert plan.trials
    for trial in plan.trials:
        if isinstance(trial.experiment.model, NetworkConfig):
            check_network(trial.experiment.model, 10, (64, 64))
        else:
            network = build_network(trial.experiment.model, 10, seed=0).eval()
            with torch.no_grad():
                assert network(torch.zeros(1, 3, 33, 65)).shape == (1, 10, 33, 65)


def test_the_quick_study_is_table_1a() -> None:
    plan = load_study(ROOT / "ablations.yaml")
    published = [trial.reference.miou for trial in plan.trials if trial.reference]
    assert published == [73.2, 77.3, 78.8, 78.9, 79.6, 80.0, 80.1]
