"""Counts the costs of the networks of a `kind: profile` study."""

from models import count_parameters
from models.cost import parts
from orchestrator.study.config import ProfileOptions
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.study import Study, Trial
from orchestrator.study.yaml_source import Problem, SourceLocation, StudyError
from pipelines.network.cost import multiply_adds, network_on_meta
from pipelines.wording import suggestion


def profile_costs(study: Study) -> dict[str, ModelCost]:
    """Return the cost of each trial's network, or of the `part` its variant names, by trial name;
    empty unless the study is of `kind: profile`. Raises StudyError if the part does not exist."""
    if study.config.kind != "profile":
        return {}
    options = study.config.profile or ProfileOptions()
    variants = study.config.variants
    return {
        trial.name: _cost(trial, variants[trial.variant].part, options) for trial in study.trials
    }


def _cost(trial: Trial, part: str | None, options: ProfileOptions) -> ModelCost:
    config = trial.experiment.model
    model = network_on_meta(config, options.classes)
    by_part = multiply_adds(model, config, options.classes, options.size)
    if part is None:
        total = sum(by_part.values())
        return ModelCost(count_parameters(model) / 1e6, total / 1e9, options.size)
    available = parts(model)
    if part not in available:
        message = f"{part!r} is not a part of this network; {suggestion(part, list(available))}"
        raise StudyError([Problem(SourceLocation(f"variants.{trial.variant}.part"), message)])
    return ModelCost(count_parameters(available[part]) / 1e6, by_part[part] / 1e9, options.size)
