"""Downloads published weights before a study opens its data, with their progress."""

from collections.abc import Iterable
from functools import partial

from rich.console import Console
from rich.progress import Progress, TaskID

from orchestrator.console import progress, say
from pipelines.data.download import DownloadError
from pipelines.network.published_weights import PUBLISHED_WEIGHTS, DownloadedWeights
from pipelines.network.weight_files import WeightsError
from pipelines.training.experiment import Experiment


def download_weights(experiments: Iterable[Experiment], console: Console) -> None:
    """Download the published weights that experiments name and this machine does not have.

    Raises WeightsError if they cannot be downloaded.
    """
    for name in dict.fromkeys(each.training.backbone_weights for each in experiments):
        weights = PUBLISHED_WEIGHTS.get(name or "")
        if not isinstance(weights, DownloadedWeights) or weights.path is not None:
            continue
        say(console, f"downloading {name} from {weights.address}", "dim")
        with progress(console) as bar:
            try:
                weights.fetch(partial(_show, bar, bar.add_task("MB", total=None)))
            except DownloadError as error:
                raise WeightsError(f"{name}: {error}") from error


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done / 1e6, total=total / 1e6 or None)
