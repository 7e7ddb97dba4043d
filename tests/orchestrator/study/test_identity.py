"""Which settings and sources determine the identity of a trial."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import FENetConfig
from models.config import LOSSES
from models.registry import BACKBONES, NETWORKS, Registry
from orchestrator.study.identity import code_version, source_paths, trial_identity
from orchestrator.study.user_code import modules_of
from pipelines.data.config import DataConfig
from pipelines.evaluation.config import METRICS, EvaluationConfig
from pipelines.network.config import NetworkConfig
from pipelines.training.config import OPTIMIZERS, SCHEDULES, TrainingConfig
from pipelines.training.experiment import Experiment, experiment_differences

ROOT = Path(__file__).parents[3]
BASE = Experiment(training=TrainingConfig(precision="fp32"))
FINGERPRINT = "0" * 64


def test_explicit_defaults_do_not_change_the_identity() -> None:
    explicit = replace(BASE, model=FENetConfig(ppm=True, dropout=0.1), data=DataConfig())
    assert trial_identity(explicit, FINGERPRINT) == trial_identity(BASE, FINGERPRINT)


def test_identity_is_stable() -> None:
    """Do not change this value: all finished trials in existing stores would be trained again."""
    assert trial_identity(BASE, FINGERPRINT)[:16] == "dbe54d2c02773f52"


@pytest.mark.parametrize(
    "registry", [NETWORKS, BACKBONES, LOSSES, METRICS, OPTIMIZERS, SCHEDULES], ids=lambda r: r.kind
)
def test_code_version_covers_all_built_in_classes(registry: Registry[Any]) -> None:
    covered = {name for name, _ in source_paths()}
    named = {*registry.built_in.values(), *registry.libraries.values()}
    modules = {name.partition(":")[0] for name in named}
    modules |= {cls.__module__ for cls in registry.values()}
    own = {name for name in modules if name.partition(".")[0] in ("models", "pipelines")}
    assert own <= covered
    assert own or registry is OPTIMIZERS


def test_settings_without_effect_on_scores_are_ignored() -> None:
    smaller = replace(BASE, evaluation=EvaluationConfig(batch=1))
    assert trial_identity(smaller, FINGERPRINT) == trial_identity(BASE, FINGERPRINT)
    assert experiment_differences(smaller.as_json(), BASE.as_json()) == []


def test_unrecorded_setting_has_its_default() -> None:
    recorded, current = BASE.as_json(), BASE.as_json()
    del recorded["training"]["momentum"]
    assert experiment_differences(recorded, current) == []
    current["training"]["momentum"] = 0.8
    assert experiment_differences(recorded, current) == [
        "training.momentum: 0.9 (recorded), 0.8 (now)"
    ]
    networks = [
        replace(BASE, model=NetworkConfig("a:B", arguments)).as_json()
        for arguments in ({"width": 8}, {"width": 8, "rate": 0.5})
    ]
    assert experiment_differences(*networks) == [
        "model.arguments.rate: nothing (recorded), 0.5 (now)"
    ]


def test_data_is_identified_by_content_not_by_path() -> None:
    moved = replace(BASE, data=DataConfig(dataset="s3://bucket/streets"))
    assert trial_identity(moved, FINGERPRINT) == trial_identity(BASE, FINGERPRINT)
    assert trial_identity(BASE, "1" * 64) != trial_identity(BASE, FINGERPRINT)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, seed=1),
        replace(BASE, model=FENetConfig(backbone="dfnet1")),
        replace(BASE, model=FENetConfig(flows=())),
        replace(BASE, model=FENetConfig(flows=("semantic", "detail"))),
        replace(BASE, data=DataConfig(crop=(512, 1024))),
        replace(BASE, training=TrainingConfig(precision="bf16")),
        replace(BASE, training=TrainingConfig(precision="fp32", epochs=301)),
        replace(BASE, training=TrainingConfig(precision="fp32", steps=300)),
        replace(BASE, evaluation=EvaluationConfig(every=2)),
    ],
    ids=lambda experiment: repr(experiment)[:40],
)
def test_settings_that_affect_scores_change_the_identity(other: Experiment) -> None:
    assert trial_identity(other, FINGERPRINT) != trial_identity(BASE, FINGERPRINT)


def test_unresolved_precision_is_rejected() -> None:
    with pytest.raises(ValueError, match="precision must be resolved"):
        trial_identity(Experiment(), FINGERPRINT)


def test_initial_weights_are_identified_by_content_and_purpose() -> None:
    digests = [None, "1" * 64, "2" * 64]
    identities = {
        (backbone, whole): trial_identity(BASE, FINGERPRINT, backbone, whole)
        for backbone in digests
        for whole in digests
    }
    assert len(set(identities.values())) == len(digests) ** 2
    for key, pair in (("backbone_weights", ("1" * 64, None)), ("init", (None, "1" * 64))):
        training = replace(BASE.training, **{key: "weights.safetensors"})
        moved = trial_identity(replace(BASE, training=training), FINGERPRINT, *pair)
        assert moved == identities[pair]


def test_code_version_covers_the_versions_of_libraries() -> None:
    versions = {code_version(libraries=libraries) for libraries in ((), ("numpy",), ("pyarrow",))}
    assert len(versions) == 3
    assert {len(version) for version in versions} == {16}


def test_code_version_includes_user_modules_and_their_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_network.py").write_text("import torch\nfrom own_layers.blocks import WIDTH\n")
    package = tmp_path / "own_layers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text("from own_constants import WIDTH\n")
    (tmp_path / "own_constants.py").write_text("WIDTH = 1\n")
    experiment = replace(BASE, model=NetworkConfig("own_network:Network"))
    modules = modules_of(experiment, ())
    assert [module.__name__ for module in modules] == ["own_network", "own_layers", "own_constants"]
    before = code_version(modules)
    (tmp_path / "own_constants.py").write_text("WIDTH = 2\n")
    assert code_version(modules_of(experiment, ())) != before


COMPUTING = (
    "pipelines/training/loop.py",
    "pipelines/data/augmentation.py",
    "pipelines/evaluation/scores.py",
    "pipelines/evaluation/boundaries.py",
    "models/backbones/resnet.py",
)
NOT_COMPUTING = (
    "pipelines/figures/comparison.py",
    "pipelines/preparation/readers/streets.py",
    "pipelines/preparation/streets/canvas.py",
    "pipelines/prepare.py",
    "pipelines/serving.py",
    "models/profile.py",
    "orchestrator/report/charts/drawing.py",
)


@pytest.mark.slow
def test_only_sources_that_compute_results_change_the_code_version(tmp_path: Path) -> None:
    """Edit the docstring of one file after another in a copy of the sources."""
    for package in ("models", "pipelines", "orchestrator"):
        shutil.copytree(ROOT / package, tmp_path / package)
    code = f"""
from pathlib import Path
from orchestrator.study.identity import code_version
for name in {COMPUTING + NOT_COMPUTING}:
    before, file = code_version(), Path(name)
    file.write_text(file.read_text().replace('\"\"\"', '\"\"\"Edited. ', 1))
    if code_version() != before:
        print(name)
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(process.stdout.split()) == COMPUTING
