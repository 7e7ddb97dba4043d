"""Which modules a module imports."""

from pathlib import Path

import examples.gated_fem  # noqa: F401 - registers its kind of FEM
from orchestrator.study.import_closure import import_closure


def test_imports_are_followed_transitively(tmp_path: Path) -> None:
    files = {}
    for name, text in {
        "p": "",
        "p.a": "from . import b\nimport json, torch.nn\n",
        "p.b": "def f():\n    from p.c.d import x\n",
        "p.c": "",
        "p.c.d": "import yaml\nCLASSES = {'own': 'p.named:Class', 'other': 'host.name:80'}\n",
        "p.named": "import numpy\n",
        "p.unused": "import kornia\n",
    }.items():
        folder = tmp_path / name.replace(".", "/")
        package = name in ("p", "p.c")
        files[name] = folder / "__init__.py" if package else folder.with_suffix(".py")
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text)
    needed, others = import_closure(["p.a"], files)
    assert set(needed) == set(files) - {"p.unused", "p.named"}
    assert others == {"json", "torch", "yaml"}
    needed, others = import_closure(["p.a"], files, with_named=True)
    assert set(needed) == set(files) - {"p.unused"}
    assert others == {"json", "torch", "yaml", "numpy"}
