"""Losses that depend on how a batch is divided among workers and micro-batches."""

from models import LossConfig
from models.loss import loss_class
from models.losses import Loss


def division_warnings(config: LossConfig, accumulation: int, workers: int) -> list[str]:
    """Return a sentence about the terms of a loss that are computed for each part of a batch.

    accumulation: number of micro-batches. workers: the maximum number of workers. Nothing is
    returned if a batch has one part, or if all terms add up over the parts, as `models.losses.Loss`
    does.

    Raises:
        ValueError: a term cannot be imported.
    """
    parts = [f"{accumulation} micro-batches"] if accumulation > 1 else []
    parts += [f"up to {workers} workers"] if workers > 1 else []
    if not parts:
        return []
    own = [term.name for term in config.term_configs if not issubclass(loss_class(term), Loss)]
    if not own:
        return []
    return [
        f"loss {', '.join(own)} is computed for each part of a batch ({' and '.join(parts)}) and "
        "averaged, so it may depend on the number of parts; a subclass of models.losses.Loss adds "
        "up over the whole batch"
    ]
