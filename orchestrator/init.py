"""`orchestrator init`: a study file to begin with, in the working directory.

Writes `study.yaml`, which trains on the embedded data set, or with `--study NAME` a copy of a study
that comes with the project, with the files that it extends. Existing files are never overwritten.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from rich.console import Console

from orchestrator.console import InputError, examples, run_command, say
from pipelines.config import load_yaml
from pipelines.wording import suggestion

_PACKAGE = Path(__file__).resolve().parent
_FIRST = _PACKAGE / "first_study.yaml"
_SCHEMA = _PACKAGE / "study.schema.json"
# The line by which an editor finds the schema of a YAML file.
_SCHEMA_LINE = re.compile(r"^# yaml-language-server: \$schema=.*$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.init") -> int:
    """Run the command; its exit status: 0 written, 2 bad input."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _init(options, console))


def _init(options: argparse.Namespace, console: Console) -> int:
    study = _FIRST if options.study is None else shipped_study(options.study)
    target = Path("study.yaml" if options.study is None else study.name)
    if target.exists():
        raise InputError(f"{target.resolve()} exists; remove it, or run this in another directory")
    for extended in _extended_files(study):
        inherited = target.parent / extended.relative_to(study.parent)
        if not inherited.exists():  # another study's copy may have brought it
            _copy(extended, inherited, console)
    _copy(study, target, console)
    say(console, f"next: orchestrator sweep {target} --plan")
    return 0


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the project, by name. Empty where they are not installed."""
    folder = _shipped_folder()
    if folder is None:
        return {}
    files = [folder / "ablations.yaml", *sorted(folder.glob("studies/*.yaml"))]
    return {file.stem: file for file in files}


def shipped_study(name: str) -> Path:
    """The file of a study that comes with the project. Raises InputError for an unknown name."""
    studies = shipped_studies()
    if name not in studies:
        advice = "the installation lacks its share/ folder; install the project again"
        if studies:
            advice = suggestion(name, list(studies))
        raise InputError(f"no study {name!r} comes with the project; {advice}")
    return studies[name]


def _shipped_folder() -> Path | None:
    """The folder of ablations.yaml and studies/: the clone, or where the wheel put them."""
    clone = _PACKAGE.parent
    if (clone / "ablations.yaml").is_file():
        return clone
    try:
        installed = metadata.files("segmentation-orchestrator") or []
    except metadata.PackageNotFoundError:
        return None
    files = [Path(str(file.locate())) for file in installed if file.name == "ablations.yaml"]
    return files[0].parent if files and files[0].is_file() else None


def _extended_files(study: Path) -> Iterator[Path]:
    """The files that a study extends, directly or not."""
    extends = load_yaml(study.read_text(encoding="utf-8")).get("extends") or []
    for name in [extends] if isinstance(extends, str) else extends:
        yield study.parent / name
        yield from _extended_files(study.parent / name)


def _copy(source: Path, target: Path, console: Console) -> None:
    """Copy a study file; its first line names the installed schema, its commands the copy."""
    text = source.read_text(encoding="utf-8")
    text = _SCHEMA_LINE.sub(f"# yaml-language-server: $schema={_SCHEMA.as_uri()}", text, count=1)
    text = text.replace(f"studies/{source.name}", source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    say(console, f"written: {target}")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a first study file into the working directory.",
        **examples(prog, "", "--study table-1a"),
    )
    parser.add_argument(
        "--study",
        metavar="NAME",
        help=f"copy a study that comes with the project: {', '.join(shipped_studies())}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
