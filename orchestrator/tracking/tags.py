"""The tags that this project sets in MLflow: what users may filter runs and models by.

`docs/reference/mlflow.md` is generated from the string below each constant.
"""

PREFIX = "orchestrator."

KIND = f"{PREFIX}kind"
"""What a run is: `study` (the parent), `trial`, or `link` (a row that another study trained)."""

TRIAL = f"{PREFIX}trial"
"""The trial's name, unique in its study."""

IDENTITY = f"{PREFIX}identity"
"""Hash of everything that decides the trial's result; equal identities are trained once."""

VARIANT = f"{PREFIX}variant"
"""The row of the table: the variant's name."""

SEED = f"{PREFIX}seed"
"""The trial's seed."""

AXIS = f"{PREFIX}axis."
"""Prefix: the trial's value on an axis of the grid, by the axis's dotted key."""

DATA = f"{PREFIX}data"
"""Fingerprint of the prepared data set."""

WEIGHTS = f"{PREFIX}weights"
"""Digest of the published weights that the backbone starts from."""

INIT = f"{PREFIX}init"
"""Digest of the weights that the whole network starts from (`training.init`)."""

CODE = f"{PREFIX}code"
"""Version of the code that trained the run; several, joined by `+`, where it was resumed."""

DEVICE = f"{PREFIX}device"
"""The device that one worker computed on."""

MEASUREMENT = f"{PREFIX}measurement"
"""Times measured by a finished trial, as JSON; later plans use them."""

REASON = f"{PREFIX}reason"
"""Why a run failed or was interrupted."""

STOPPED = f"{PREFIX}stopped"
"""`early` on a trial that the early stopping of a search ended."""

CLAIM = f"{PREFIX}claim"
"""`asked` or `held` while processes settle which of them trains an identity."""

RUN = f"{PREFIX}run"
"""On a link: the id of the run that trained the row."""

EVALUATION = f"{PREFIX}eval."
"""Prefix: the settings of a later evaluation, as `orchestrator.eval.NAME.SETTING`."""

FIGURE = f"{PREFIX}figure."
"""Prefix, on the parent: digest of what a figure was drawn from, by its kind."""

PAGE = f"{PREFIX}page"
"""On the parent: which table the study's page shows."""

COMMAND = f"{PREFIX}command"
"""On the parent: the arguments of the last command, as JSON, for `studies resume`."""

OWNER = f"{PREFIX}owner"
"""On the parent: the process that runs the study."""

HEARTBEAT = f"{PREFIX}heartbeat"
"""On the parent: when that process last showed that it is alive, in seconds since the epoch."""

STOP = f"{PREFIX}stop"
"""On the parent: who asked the study to stop, and when."""

ASKING = f"{PREFIX}asking."
"""Prefix, on the parent: processes that try to take the study's lock."""
