"""The content of a bundle: its files, and `bundle.json`, which describes them."""

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.study.identity import sources_digest
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError
from pipelines.data.files import file_digest
from pipelines.errors import UserError, is_disk_full

FORMAT = "segmentation-bundle"
# Increase it whenever older code cannot read newer bundles correctly, or newer code older ones.
VERSION = 1
DESCRIPTION = "bundle.json"
STUDY_FILE = "study.resolved.yaml"
ORIGINAL_FILE = "study.yaml"
COUNTS, DATASETS, SOURCES, TABLES, WEIGHTS = "counts", "datasets", "sources", "tables", "weights"
OWN = "own"  # the user's modules, in SOURCES

History = Mapping[str, list[list[float]]]


class BundleError(UserError, ValueError):
    """A bundle that cannot be read or checked; the message says which and why."""


@dataclass(frozen=True)
class Sources:
    """The sources of one code version.

    files: (name in the code version, path in the bundle), in the order of the code version's hash.
    libraries: versions that are part of it.
    """

    files: tuple[tuple[str, str], ...]
    libraries: Mapping[str, str]

    def code_version(self, directory: Path) -> str:
        """Return the code version of the files in a bundle's directory."""
        files = ((name, directory / path) for name, path in self.files)
        return sources_digest(files, self.libraries)


@dataclass(frozen=True)
class Bundle:
    """What `bundle.json` holds.

    overrides: each `--set` as (key, YAML text). runs: by trial name, of the trials that have one.
    codes: the code version at the time of the bundle, by trial name. sources: by code version.
    weights: SHA-256 of the last checkpoint's weights, by run id. histories: by run id, the metrics
    of each epoch as (epoch, value). table: the lines of the table, by column. datasets: of each
    data set, its location and fingerprint. environment: versions of Python and of all packages, and
    the platform. files: SHA-256 by path.
    """

    study: str
    overrides: tuple[tuple[str, str], ...]
    runs: Mapping[str, TrialRun]
    codes: Mapping[str, str]
    sources: Mapping[str, Sources]
    weights: Mapping[str, str]
    histories: Mapping[str, History]
    table: list[dict[str, Any]]
    datasets: list[dict[str, str]]
    environment: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of `bundle.json`."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(document, indent=1, default=sorted) + "\n"

    @staticmethod
    def read(directory: Path) -> "Bundle":
        """Read `bundle.json`. Raises BundleError."""
        file = directory / DESCRIPTION
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("its content is not a JSON object")
            if values.pop("format", None) != FORMAT:
                raise ValueError(f"format is not {FORMAT!r}")
            version = values.pop("version", None)
            if type(version) is not int:
                raise ValueError(f"version is {version!r}, not an integer")
            if version != VERSION:
                raise BundleError(
                    f"{file} has version {version}, but this is for version {VERSION}; use the "
                    "project's release that wrote it"
                )
            return TypeAdapter(Bundle).validate_python(values)
        except BundleError:
            raise
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {first['msg']}"
        except (OSError, TypeError, ValueError) as error:
            problem = str(error)
        except RecursionError:
            problem = "its values are nested too deeply"
        raise BundleError(
            f"{directory} is not a bundle ({DESCRIPTION}: {problem}); orchestrator bundle "
            "STUDY.yaml --out DIR writes one"
        )


@dataclass(frozen=True)
class BundledCounts:
    """The counts in a bundle, where a report expects those of a tracking store."""

    directory: Path

    def download_file(self, run_id: str, path: str, directory: Path) -> Path:
        """Return the path of a run's file. Raises TrackingError."""
        file = self.directory / COUNTS / run_id / path
        if not file.is_file():
            raise TrackingError(f"{file}: not in the bundle")
        return file


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a bundle other than `bundle.json`, by its path."""
    by_path = {}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = file.relative_to(directory).as_posix()
        if name != DESCRIPTION:
            by_path[name] = file_digest(file)
    return by_path


def pack_directory(directory: Path, archive: Path) -> Path:
    """Write the files of a directory to a new zip archive; return its path."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            target.write(file, file.relative_to(directory).as_posix())
    return archive


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield the directory of a bundle, which may be a zip archive, of its files or of one folder
    with them. Raises BundleError."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bundle-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary) / path.stem
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(directory)
        except (EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if is_disk_full(error):
                raise
            raise BundleError(
                f"{path} cannot be opened ({error}); give the directory or zip file of a bundle"
            ) from None
        found = [*directory.glob(DESCRIPTION), *directory.glob(f"*/{DESCRIPTION}")]
        if not found:
            raise BundleError(
                f"{path} is not a bundle, because it has no {DESCRIPTION}; orchestrator bundle "
                "STUDY.yaml --out FILE.zip writes one"
            )
        yield found[0].parent
