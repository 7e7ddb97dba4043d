"""Study files that are written to a test's directory and loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import StudyError


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
