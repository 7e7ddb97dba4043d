"""A resolved trial: what `resolve` finds out about a trial before anything runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.hugging_face.configuration import is_saved
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.study import Trial
from pipelines.network.published_weights import PUBLISHED_WEIGHTS
from pipelines.training.duration import Duration
from pipelines.training.experiment import Experiment

if TYPE_CHECKING:
    from models import PretrainedReport
    from pipelines.data.dataset import PreparedDataset


@dataclass(frozen=True, kw_only=True)
class ResolvedTrial(Trial):
    """A trial with everything resolved that its result depends on: precision, data, weights, code.

    location: path or URI of the data set.
    pretrained: which published weights its backbone loads; None if it loads none.
    init: path or URI, readable by the workers, of the initial weights of the whole network.
    digests: content hashes of the backbone's and the network's initial weights; None without any.
    """

    identity: str
    code: str
    dataset: "PreparedDataset"
    location: str
    cost: ModelCost
    pretrained: "PretrainedReport | None"
    init: str | None = None
    digests: tuple[str | None, str | None] = (None, None)

    @property
    def worker_experiment(self) -> Experiment:
        """The experiment for the workers: `training.init` is a file that they can read."""
        training = replace(self.experiment.training, init=self.init)
        return replace(self.experiment, training=training)

    @property
    def duration(self) -> Duration:
        """The length of the training."""
        images = len(self.dataset.split(self.experiment.data.trained_on))
        return Duration.of(self.experiment.training, images)


def absolute(uri: str) -> str:
    """Return a local path as an absolute path, because workers have another working directory;
    URIs are unchanged."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def absolute_weights(uri: str) -> str:
    """Return `absolute(uri)`; the name of published weights is unchanged, because every machine
    finds them in its own installation or in its cache of the hub."""
    return uri if uri in PUBLISHED_WEIGHTS or is_saved(uri) else absolute(uri)
