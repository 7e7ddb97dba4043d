"""Every command's first check: `models` and `pipelines` are this project's packages.

`python -m` puts the working directory first on the path, and many repositories have a package
`models` of their own there. The packages import this module before all others; it needs nothing but
the standard library.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]


def namesake(command: str) -> str | None:
    """A sentence about what hides a package of this project; None where nothing does.

    command: the name of the program, `-m` for a module.
    """
    for name in ("models", "pipelines"):
        spec = find_spec(name)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        path = next((Path(place).resolve() for place in places if place), None)
        if path is not None and path.name == "__init__.py":
            path = path.parent
        if path is None or path.parent == _HOME:
            continue
        advice = f"take {path.parent} off PYTHONPATH"
        if command == "-m" and path.parent == Path.cwd():
            advice = "run the command `orchestrator`, which searches the working directory last"
        return f"{path} hides this project's package `{name}`; {advice}, or rename it"
    return None


# The first argument is `-m` while Python looks for the module to run.
command = Path(sys.argv[0]).name if sys.argv else ""
if command in ("-m", "orchestrator"):
    message = namesake(command)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
