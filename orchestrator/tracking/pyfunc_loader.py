"""The entry point of a model in MLflow, which keeps a copy of this file in the folder `code/`.

`mlflow.pyfunc.load_model` imports it by name on machines where this project may not be installed,
so it must not import anything from the project. The sources that the model needs are in an archive
next to its weights. They are imported for this model only, so that they conflict neither with
installed packages of the same names nor with models of other versions.
"""

import importlib
import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCES = "sources.zip"
IMPORTS = "imports.json"


def _load_pyfunc(data_path: str) -> Any:
    """Load the model in the directory `data_path`; see `pipelines.serving` for its `predict`.

    Raises ImportError with installation instructions if a library is missing.
    """
    directory = Path(data_path)
    with zipfile.ZipFile(directory / SOURCES) as archive:
        imports = json.loads(archive.read(IMPORTS))
        packages = {name.split("/")[0].removesuffix(".py") for name in archive.namelist()}
    try:
        with _import_only_from(directory / SOURCES, packages):
            serving = importlib.import_module("pipelines.serving")
            return serving.SegmentationModel(directory, imports)
    except ModuleNotFoundError as error:
        # List them in the message: the folder may be a copy that is deleted when the program ends.
        requirements = (directory.parent.parent / "requirements.txt").read_text().split()
        raise ImportError(
            f"this model needs {error.name}, which is not installed here; install what its "
            f"requirements.txt lists: pip install {' '.join(requirements)}"
        ) from error


@contextmanager
def _import_only_from(sources: Path, packages: set[str]) -> Iterator[None]:
    """Within this context, import `packages` from `sources`; restore `sys.modules` afterwards."""

    def loaded() -> dict[str, Any]:
        return {n: m for n, m in sys.modules.items() if n.partition(".")[0] in packages}

    before = loaded()
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(sources))
    try:
        yield
    finally:
        sys.path.remove(str(sources))
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)
