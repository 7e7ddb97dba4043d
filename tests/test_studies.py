"""Every study file in the project is valid, and the tables match the paper."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.backbones import build_backbone
from models.cost import on_meta
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.study import Study
from pipelines.evaluation.config import metric_configs
from pipelines.evaluation.measuring import build_metrics
from pipelines.network.build import check_network
from pipelines.network.config import NetworkConfig

ROOT = Path(__file__).parent.parent
STUDIES = [
    ROOT / "ablations.yaml",
    ROOT / "orchestrator" / "first_study.yaml",
    *ROOT.glob("studies/*.yaml"),
    *ROOT.glob("examples/*.yaml"),
]
TABLES = sorted(ROOT.glob("studies/table-*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_study_resolves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    study = load_study(path)
    assert study.trials
    assert not study.warnings
    protocols = [metric_configs(each.metrics) for each in study.config.protocols.values()]
    trained = [trial.experiment.evaluation.metric_configs for trial in study.trials]
    for metrics in {repr(each): each for each in (*protocols, *trained)}.values():
        build_metrics(metrics, 10)
    for model in {repr(t.experiment.model): t.experiment.model for t in study.trials}.values():
        if isinstance(model, NetworkConfig):
            check_network(model, 10, (64, 64))
        else:
            logits = on_meta(model, 10)(torch.empty(1, 3, 33, 65, device="meta"))
            assert logits.shape == (1, 10, 33, 65)


@pytest.mark.parametrize("path", list(ROOT.glob("studies/*.yaml")), ids=lambda path: path.name)
def test_resolved_study_is_the_study(path: Path, tmp_path: Path) -> None:
    """A recorded study is loaded from its resolved text, where nothing is inherited."""
    study = load_study(path)
    file = tmp_path / "study.resolved.yaml"
    file.write_text(study.resolved)
    resolved = load_study(file)
    assert resolved.all_trials == study.all_trials
    unmet = [each for each in study.config.when if each not in resolved.config.when]
    kept = tuple(each for each in study.config.when if each not in unmet)
    assert resolved.config == replace(study.config, extends=(), when=kept)


def test_quick_study_has_rows_of_table_1a() -> None:
    study = load_study(ROOT / "ablations.yaml")
    published = dict.fromkeys(trial.published_miou for trial in study.trials)
    assert list(published) == [77.3, 78.8, 78.9, 79.6]


def published(study: Study) -> dict[tuple[str, ...], float | None]:
    """Map variants with their axes, and labels of other methods, to the published mIoU."""
    ours = {(t.variant, *map(str, t.axes.values())): t.published_miou for t in study.trials}
    return {**ours, **{(row.label,): row.miou for row in study.config.published}}


# The values of tables 1, 3 and 4 in the paper, in order.
PUBLISHED = {
    "table-1a": [73.2, 77.3, 78.8, 78.9, 79.6, 80.0, 80.1],
    "table-1b": [70.6, 74.9, 75.4, 78.3, 72.8, 75.8, 79.3, 80.5, 74.4, 77.3, 81.7, 82.0],
    "table-3a": [80.1, 82.0, 78.0, 80.8, 79.8, 79.6, 81.2, 79.8],
    "table-3b": [81.0, 82.3, 78.4, 80.1, 81.8, 81.4, 81.5, 81.8, 81.6, 82.3, 81.8, 82.3],
    "table-4a": [45.42, 43.29, 44.65, 44.89, 45.22, 45.28, 45.33, 44.67, 46.48],
    "table-4b": [53.7, 47.3, 47.8, 51.7, 52.6, 54.4, 54.2, 55.8],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_table_has_every_published_value(name: str) -> None:
    values = published(load_study(ROOT / "studies" / f"{name}.yaml"))
    assert list(values.values()) == PUBLISHED[name]


def test_recipes_match_the_paper() -> None:
    recipes = {}
    for path in TABLES:
        study = load_study(path)
        if study.config.kind == "table":
            recipes[path.stem] = {
                (
                    trial.experiment.data.crop,
                    trial.experiment.training.batch,
                    trial.experiment.training.epochs,
                    trial.experiment.training.learning_rate,
                    trial.experiment.data.class_uniform,
                    trial.experiment.training.backbone_weights is not None,
                )
                for trial in study.trials
            }
    cityscapes = {((1024, 1024), 8, 300, 0.01, 0.5, True)}
    assert recipes == {
        **dict.fromkeys(("table-1a", "table-1b", "table-3a", "table-3b"), cityscapes),
        "table-4a": {((512, 512), 16, 120, 0.01, 0.0, True)},
        "table-4b": {((512, 512), 16, 120, 0.001, 0.0, True)},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table-1b", "table-3a", "table-3b"])
def test_trials_of_a_table_have_distinct_identities(
    name: str, cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolve with fake data and fake weights of ResNet-18 and DFNet1."""
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    for file, backbone, stem in (
        ("resnet18-imagenet.pth", "resnet18", "64-64-128"),
        ("df1_imagenet.pth", "dfnet1", None),
    ):
        weights = build_backbone(backbone, stem, False).state_dict()
        torch.save(dict(weights), Path("weights") / file)
    backbone = "dfnet1" if name == "table-1b" else "resnet18"
    overrides = [("data.dataset", str(cityscapes)), ("model.backbone", backbone)]
    study = load_study(ROOT / "studies" / f"{name}.yaml", overrides)
    assert {trial.axes["model.backbone"] for trial in study.trials} == {backbone}
    resolved = resolve_trials(study.trials, "cpu", tmp_path)
    assert len({resolved_trial.identity for resolved_trial in resolved}) == len(study.trials)
    images = 6 if name == "table-3b" else 4
    for resolved_trial in resolved:
        assert resolved_trial.duration.steps == 300 * -(-images // 8)
        assert resolved_trial.pretrained is not None
        assert not resolved_trial.pretrained.missing


@pytest.mark.slow
def test_tables_share_identical_trials(cityscapes: Path, tmp_path: Path) -> None:
    """FENet on ResNet-18 is in Table 1(a) and in Table 3(a), and is trained once."""
    overrides = [("data.dataset", str(cityscapes)), ("training.backbone_weights", "null")]
    names = {"table-1a": "strong+df+sf+ss(2), seed 0", "table-3a": "fenet, resnet18"}
    identities = set()
    for file, name in names.items():
        study = load_study(ROOT / "studies" / f"{file}.yaml", overrides, [name])
        identities |= {trial.identity for trial in resolve_trials(study.trials, "cpu", tmp_path)}
    assert len(identities) == 1
