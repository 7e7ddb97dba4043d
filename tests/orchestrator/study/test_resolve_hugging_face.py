"""Studies whose rows are models of `transformers`."""

import shutil
from pathlib import Path

import pytest
import transformers

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.yaml_source import StudyError

pytestmark = pytest.mark.slow  # models of `transformers` take seconds to import and build

STUDY = """\
study: rows
base:
  data: {{dataset: {dataset}, crop: [32, 64]}}
  model: {{backbone: "hf:{folder}", backbone_arguments: {{drop_path_rate: 0.1}}, channels: 8}}
  training: {{epochs: 1, precision: fp32}}
variants:
  convnext: {{}}
  own: {{set: {{model: {{backbone: dfnet1}}}}}}
  scratch:
    set: {{model: {{backbone: "hf:resnet", backbone_arguments: {{depths: [1, 1, 1, 1]}}}}}}
"""


def test_rows_are_resolved_by_the_content_of_a_folder(small_streets: Path, tmp_path: Path) -> None:
    config = transformers.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)
    transformers.ConvNextModel(config).save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    resolved = []
    for folder in ("one", "two"):
        path = tmp_path / f"{folder}.yaml"
        path.write_text(STUDY.format(dataset=small_streets, folder=tmp_path / folder))
        resolved.append(resolve_trials(load_study(path).trials, "cpu", tmp_path))
    first = {trial.variant: trial for trial in resolved[0]}
    assert [t.identity for t in resolved[0]] == [t.identity for t in resolved[1]]
    convnext = first["convnext"]
    assert convnext.experiment.model.backbone == "hf:convnext"
    assert convnext.experiment.model.backbone_arguments["drop_path_rate"] == 0.1
    assert convnext.digests[0] is not None
    assert convnext.pretrained is not None
    assert convnext.pretrained.layout == "transformers"
    # The version of the library counts for its rows only, and its arguments for its backbone only.
    assert convnext.code == first["scratch"].code != first["own"].code
    assert first["own"].experiment.model.backbone_arguments == {}
    assert first["scratch"].experiment.training.backbone_weights is None
    assert first["scratch"].cost.parameters_m > 0


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("{backbone: 'hf:convnext', backbone_arguments: {depth: [1]}}", "unknown argument `depth`"),
        ("{backbone: 'hf:./nowhere'}", "no such folder"),
        ("{network: 'hf:segformr'}", "did you mean hf:segformer"),
        ("{network: 'hf:segformer', arguments: {depth: [1]}}", "unknown argument `depth`"),
    ],
)
def test_errors_have_the_line_of_the_study(tmp_path: Path, model: str, problem: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"study: s\nvariants:\n  a:\n    set:\n      model: {model}\n")
    with pytest.raises(StudyError, match=problem) as caught:
        load_study(path)
    assert "5" in str(caught.value)
