"""What decides a result: one frozen tree of settings for data, model, training and evaluation.

What does not decide it (how many workers, on which device) is `orchestrator.resources`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from models import FENetConfig
from pipelines.data import DataConfig
from pipelines.evaluation import EvaluationConfig
from pipelines.network import ModelConfig
from pipelines.optimization import TrainingConfig


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the outcome of one training.

    Two equal experiments on the same data and code give the same weights, whatever the number of
    workers. `seed` keys the initial parameters, the order of the samples and every augmentation.
    """

    __pydantic_config__ = {"extra": "forbid"}

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=FENetConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The experiment as nested plain values, every default written out."""
        return asdict(self)
