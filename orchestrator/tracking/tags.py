"""The tags that this project sets in MLflow: what users may filter runs and models by.

`docs/reference/mlflow.md` is generated from the string below each constant.
"""

import json
from collections.abc import Mapping

from orchestrator.study.repetition import fold_of, seed_of
from orchestrator.study.sampling import SearchSample
from orchestrator.study.study import Trial

PREFIX = "orchestrator."

KIND = f"{PREFIX}kind"
"""What a run is: `study` (the parent), `trial`, or `link` (a row that another study trained). An
experiment with `study` belongs to this project."""

TRIAL = f"{PREFIX}trial"
"""The trial's name, unique in its study."""

IDENTITY = f"{PREFIX}identity"
"""Hash of everything that decides the trial's result; equal identities are trained once."""

FORMER_NAMES = f"{PREFIX}former_names"
"""Names that the trial had before the study file was edited, one per line, the latest first; with
the variant's key and with its label."""

VARIANT = f"{PREFIX}variant"
"""The variant's name; each variant is a row of the table."""

LABEL = f"{PREFIX}label"
"""The variant's label in the table."""

SEED = f"{PREFIX}seed"
"""The trial's seed."""

FOLD = f"{PREFIX}fold"
"""The held-out fold of the trial, from 0; only in studies with `folds`."""

AXIS = f"{PREFIX}axis."
"""Prefix: the trial's value on a grid axis, by the axis's dotted key."""

SAMPLE = f"{PREFIX}sample"
"""The number of the trial's sample, from 0; only in searches with `sample`."""

SAMPLE_VALUES = f"{PREFIX}sample_values"
"""The values of the sample, by dotted key, as JSON."""

DATA = f"{PREFIX}data"
"""Fingerprint of the prepared data set."""

DATA_WARNINGS = f"{PREFIX}data_warnings"
"""What limits the scores on this data, such as images that two splits share; one per line."""

WEIGHTS = f"{PREFIX}weights"
"""Digest of the published weights that initialize the backbone."""

INIT = f"{PREFIX}init"
"""Digest of the weights that initialize the whole network (`training.init`)."""

CODE = f"{PREFIX}code"
"""Version of the code that trained the run; several, joined by `+`, if it changed."""

WORKERS = f"{PREFIX}workers"
"""Number of workers that trained the run; several, joined by `+`, if it changed."""

DEVICE = f"{PREFIX}device"
"""The device that a worker computed on."""

MEASUREMENT = f"{PREFIX}measurement"
"""Timings of a finished trial, as JSON; later plans use them."""

STARTED = f"{PREFIX}started"
"""When the trial's processes last started (UTC); MLflow shows when the run was scheduled."""

ENDED = f"{PREFIX}ended"
"""When the run was last closed (UTC); MLflow's end time is the start plus the training time."""

REASON = f"{PREFIX}reason"
"""Why a run failed or was interrupted."""

STOPPED = f"{PREFIX}stopped"
"""`early` if the early stopping of a search ended the trial."""

SUPERSEDED = f"{PREFIX}superseded"
"""`yes` if the study file was edited and no longer defines this trial; otherwise not set."""

CLAIM = f"{PREFIX}claim"
"""`requested` or `held` while processes settle which of them trains a trial of this identity."""

RUN = f"{PREFIX}run"
"""On a link: the id of the run that it refers to."""

EVALUATION = f"{PREFIX}eval."
"""Prefix: the settings of a later evaluation, as `orchestrator.eval.NAME.SETTING`."""

FIGURE = f"{PREFIX}figure."
"""Prefix, on the parent: digest of a figure's inputs, by the figure's kind."""

PAGE = f"{PREFIX}page"
"""On the parent: the `--set` overrides of the table on the study's page."""

COMMAND = f"{PREFIX}command"
"""On the parent: the arguments of the last command, as JSON, for `studies resume`."""

OWNER = f"{PREFIX}owner"
"""On the parent: the process that runs the study."""

HEARTBEAT = f"{PREFIX}heartbeat"
"""On the parent: time of that process's last heartbeat, in seconds since the epoch."""

PROCESS_LOCK = f"{PREFIX}process_lock"
"""On the parent: a file that the process locks while it lives, so that others on the same machine
can tell its end."""

STOP = f"{PREFIX}stop"
"""On the parent: which process requested that the study stop, and when."""

LOCK_REQUEST = f"{PREFIX}request."
"""Prefix, on the parent: processes that are trying to take the study's lock."""


def trial_tags(trial: Trial) -> dict[str, str]:
    """Return the tags that say which trial of its study a run is: name, variant, label, grid
    values, sample, seed, and the fold if there are folds."""
    tags = {
        TRIAL: trial.name,
        VARIANT: trial.variant,
        LABEL: trial.label,
        SEED: str(seed_of(trial.repetition)),
    }
    fold = fold_of(trial.repetition)
    if fold is not None:
        tags[FOLD] = str(fold)
    if trial.sample is not None:
        tags[SAMPLE] = str(trial.sample.number)
        tags[SAMPLE_VALUES] = json.dumps(trial.sample.values, sort_keys=True)
    return tags | {f"{AXIS}{axis}": str(value) for axis, value in trial.axes.items()}


def changed_trial_tags(tags: Mapping[str, str], trial: Trial) -> dict[str, str]:
    """Return the entries of `trial_tags` that a run with `tags` does not have, and its former names
    if there are any such entries. A value is empty if the trial has no such tag any more."""
    cell = (FOLD, SAMPLE, SAMPLE_VALUES)
    outdated = [key for key in tags if key in cell or key.startswith(AXIS)]
    present = trial_tags(trial)
    changed = {
        key: value
        for key, value in (dict.fromkeys(outdated, "") | present).items()
        if tags.get(key) != value
    }
    if changed and TRIAL in tags:
        # The latest first: MLflow truncates long tags.
        names = [*_names(tags), *tags.get(FORMER_NAMES, "").splitlines()]
        former = [name for name in dict.fromkeys(names) if name not in _names(present)]
        changed[FORMER_NAMES] = "\n".join(former)
    return changed


def labeled_name(name: str, tags: Mapping[str, str]) -> str:
    """Return a trial's name with its variant's label. tags: of its run."""
    variant = tags.get(VARIANT, "")
    return tags.get(LABEL, variant) + name.removeprefix(variant)


def _names(tags: Mapping[str, str]) -> tuple[str, str]:
    return tags[TRIAL], labeled_name(tags[TRIAL], tags)


def sample_in(tags: Mapping[str, str]) -> SearchSample | None:
    """Return the sample of a run from its tags; None if it has none, or if a process that removes
    them was killed between the two."""
    if SAMPLE not in tags or SAMPLE_VALUES not in tags:
        return None
    return SearchSample(int(tags[SAMPLE]), json.loads(tags[SAMPLE_VALUES]))
