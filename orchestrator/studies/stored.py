"""The studies and trials that the arguments of `orchestrator.studies` name."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path

from orchestrator.storage import Storage
from orchestrator.study.load import override_of
from orchestrator.sweep.options import SweepOptions
from orchestrator.tracking.open_store import open_existing_store
from orchestrator.tracking.queries import StudySummary, read_snapshot
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.data.storage import check_no_secret
from pipelines.wording import suggestion


def local_storage(options: argparse.Namespace) -> Path:
    """Return the local directory of `--storage`."""
    return Storage.parse(options.storage).local


def store_of(options: argparse.Namespace) -> TrackingStore:
    """Open the tracking store. Raises TrackingError."""
    check_no_secret(options.storage)
    return open_existing_store(local_storage(options), getattr(options, "tracking", None))


def find_study(store: TrackingStore, name: str) -> StudySummary:
    """Return the study called `name`. Raises TrackingError, which suggests another name."""
    for study in read_snapshot(store, name).studies:
        return study
    names = sorted(study.name for study in read_snapshot(store).studies)
    advice = suggestion(name, names) if names else f"there is none in {store.display_uri}"
    raise TrackingError(f"no study is called {name!r}; {advice}")


@contextmanager
def recorded_study(
    store: TrackingStore, study: StudySummary
) -> Iterator[tuple[Path, SweepOptions]]:
    """Yield the file of a study, and the options of its last run except its storage.

    Within this context, the working directory is the one in which the study was started, and
    modules are first looked up there: its relative paths and its own modules refer to it.
    """
    command = json.loads(study.command or "{}")
    options = SweepOptions(
        overrides=[override_of(text) for text in command.get("set", [])],
        only=command.get("only", []),
        address=command.get("address"),
    )
    directory = Path(command.get("directory", ".")).resolve()
    sys.path.insert(0, str(directory))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="study-") as temporary,
            chdir(directory) if directory.is_dir() else nullcontext(),
        ):
            uri = f"runs:/{study.parent_id}/study.resolved.yaml"
            yield store.download(uri, Path(temporary)), options
    finally:
        sys.path.remove(str(directory))


def runs_of_trial(store: TrackingStore, name: str, study: str | None) -> Sequence[TrialRun]:
    """Return all runs of the trial called `name`, with its variant's key or label, or the run with
    that id. If there is none, return those of the trials that were called so before their study was
    edited."""
    studies = read_snapshot(store).studies if study is None else [find_study(store, study)]
    runs = [run for each in studies for run in each.trials]
    links = [link for each in studies for link in each.links]
    matches = [run for run in runs if name in (run.name, run.run_id)]
    matches = matches or [run for run in runs if name == run.labeled_name]
    matches = matches or [run for run in links if name in (run.name, run.labeled_name)]
    if not matches:
        matches = [run for run in runs if name in run.former_names]
        present = sorted({run.name for run in matches})
        if len(present) > 1:
            raise TrackingError(
                f"no trial is called {name!r} now; {', '.join(present)} were called so earlier; "
                "choose one of them"
            )
    if not matches:
        names = sorted({run.name for run in [*runs, *links]})
        advice = suggestion(name, names) if names else f"there is none in {store.display_uri}"
        raise TrackingError(f"no trial is called {name!r}; {advice}")
    owners = sorted({run.study for run in matches})
    if len(owners) > 1:
        raise TrackingError(
            f"several studies have a trial {name!r}: {', '.join(owners)}; choose one with --study"
        )
    return matches
