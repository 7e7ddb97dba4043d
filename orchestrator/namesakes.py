"""The check of pipelines.namesakes, loaded by path: `import pipelines` might find a namesake."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_CHECK = Path(__file__).resolve().parents[1] / "pipelines" / "namesakes.py"

spec = spec_from_file_location("namesakes", _CHECK)
# Ray unpacks each package that it sends into a directory of its own.
if spec is not None and spec.loader is not None and _CHECK.is_file():
    spec.loader.exec_module(module_from_spec(spec))
