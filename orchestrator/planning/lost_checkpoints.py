"""Finds interrupted trials whose checkpoints are gone, because somebody deleted or did not copy
them: the tracking store has their epochs, but they train from the start."""

from collections.abc import Callable, Mapping

import pyarrow.fs

from orchestrator.planning.reconcile import Decision
from orchestrator.study.identity import training_name
from pipelines.data.manifest import DatasetError
from pipelines.data.storage import locate
from pipelines.wording import first_names

_SHOWN = 3  # trials that a warning names


def lost_checkpoints(decisions: Mapping[str, Decision], folder: str) -> dict[str, int]:
    """Return the recorded epochs of each trial to resume that has no checkpoints, by its name.

    decisions: by trial name. folder: path or URI of the folder with the checkpoints of all trials.
    In an object store it is listed once, whatever the number of trials. If it cannot be reached,
    none is reported: the trials themselves then say why they fail.
    """
    resumed = {
        name: decision.run
        for name, decision in decisions.items()
        if decision.action == "resume" and decision.run is not None and decision.run.epoch > 0
    }
    if not resumed:
        return {}
    try:
        has_checkpoints = _checkpoint_finder(folder)
    except (OSError, DatasetError):
        return {}
    return {
        name: run.epoch
        for name, run in resumed.items()
        if not has_checkpoints(training_name(run.identity, run.run_id))
    }


def _checkpoint_finder(folder: str) -> Callable[[str], bool]:
    """Return a function that tells whether a training has checkpoints, by its name."""
    location = locate(folder)
    if location.is_local:
        return lambda name: any(location.directory.glob(f"{name}/checkpoint_*/"))
    selector = pyarrow.fs.FileSelector(location.path, allow_not_found=True)
    # An object store has no empty folders.
    found = {info.base_name for info in location.filesystem.get_file_info(selector)}
    return found.__contains__


def lost_checkpoints_warning(lost: Mapping[str, int], folder: str) -> str:
    """Return a sentence about the result of `lost_checkpoints`; empty if that is empty."""
    if not lost:
        return ""
    shown = first_names([f"{name!r} (epoch {epoch})" for name, epoch in lost.items()], _SHOWN)
    starts = "it trains" if len(lost) == 1 else "they train"
    return f"the checkpoints of {shown} are not in {folder}; {starts} from the start"
