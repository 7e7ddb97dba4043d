"""The entry point of a model in MLflow: a copy of this file lies in its folder `code/`.

`mlflow.pyfunc.load_model` imports it by name on a machine that may know nothing of this project, so
it imports nothing of it. The sources that the model needs lie beside its weights, in one archive;
they are imported for it alone, so that neither packages of the same names nor the models of other
versions get in each other's way.
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
    """The model in the directory `data_path`, with `predict`; see `pipelines.serving`.

    Raises ImportError where a library is missing, and says how to install it.
    """
    directory = Path(data_path)
    with zipfile.ZipFile(directory / SOURCES) as archive:
        imports = json.loads(archive.read(IMPORTS))
        packages = {name.split("/")[0].removesuffix(".py") for name in archive.namelist()}
    try:
        with _alone(directory / SOURCES, packages):
            serving = importlib.import_module("pipelines.serving")
            return serving.SegmentationModel(directory, imports)
    except ModuleNotFoundError as error:
        # Spelled out: the folder may be a copy that is gone when the program ends.
        requirements = (directory.parent.parent / "requirements.txt").read_text().split()
        raise ImportError(
            f"this model needs {error.name}, which is not installed here; install what its "
            f"requirements.txt lists: pip install {' '.join(requirements)}"
        ) from error


@contextmanager
def _alone(sources: Path, packages: set[str]) -> Iterator[None]:
    """Import `packages` from `sources`; afterwards, those names mean what they meant before."""

    def named() -> dict[str, Any]:
        return {n: m for n, m in sys.modules.items() if n.partition(".")[0] in packages}

    before = named()
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(sources))
    try:
        yield
    finally:
        sys.path.remove(str(sources))
        for name in named():
            del sys.modules[name]
        sys.modules.update(before)
