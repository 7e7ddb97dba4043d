"""Study files that are written to a test's directory and loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import StudyError

# STUDY extends RECIPE, a file `recipe.yaml`.
RECIPE = """\
description: Of no study in particular.
base:
  data: {crop: [64, 64]}
  training: {epochs: 5, batch: 4}
when:
  - if: {model.backbone: resnet50}
    set: {training: {learning_rate: 0.5}}
variants:
  plain: {set: {model: {flows: []}}}
protocols:
  flip: {flip: true}
"""
STUDY = """\
study: small
extends: recipe.yaml
base: {model: {backbone: dfnet1}, training: {epochs: 3}}
variants:
  plain: null
  strong:
    set: {model: {flows: []}}
    reference:
      - {when: {data.class_uniform: 0.5}, miou: 70.1, source: "Table 9"}
      - {miou: 71.1, source: "Table 9"}
  full:
    label: FENet
    entered: {when: {data.class_uniform: 0.5}, miou: 69.5, source: server, seed: 1}
grid: {data.class_uniform: [0.0, 0.5]}
when:
  - if: {variant: full}
    set: {training: {learning_rate: 0.2}}
  - if: {data.class_uniform: 0.5, training.learning_rate: [0.2, 0.3]}
    set: {training: {batch: 2}}
seeds: [0, 1]
compare_to: strong
report: {protocol: flip}
"""
# A search with two rows, to which a test adds what is sampled.
SEARCH = """\
study: tune
kind: search
base:
  data: {crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants: {a: {}, b: {set: {model: {flows: []}}}}
"""


def load(directory: Path, files: str | Mapping[str, str], **options: Any) -> Study:
    """Write `files` by name, or one text as `study.yaml`, and load the last one."""
    for name, text in ({"study.yaml": files} if isinstance(files, str) else files).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_study(path, **options)


def problems(directory: Path, files: str | Mapping[str, str], **options: Any) -> list[str]:
    """Load an invalid study; return its problems, with paths relative to `directory`."""
    with pytest.raises(StudyError) as caught:
        load(directory, files, **options)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]
