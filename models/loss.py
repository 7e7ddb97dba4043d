"""The total loss of a network's outputs: equation (5)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import LOSSES, MINED, LossConfig, LossTermConfig
from models.losses import ByWorker, Loss
from models.registry import takes_argument
from models.user_code import failures_as

#: Output of a network in training: logits, or logits and auxiliary logits (by name or in order).
Output = Tensor | tuple[Tensor, Mapping[str, Tensor] | Sequence[Tensor]]


class LossTerms(NamedTuple):
    """One worker's contribution to the T loss terms of each output.

    Attributes:
        names: of the losses that `total` returns: of each output, "main" and the names of the
            auxiliary heads; if the configuration has several terms, then of each term: "main/dice".
        statistics: at least float32 `(S,)`, what each term adds up, with gradient.
        sizes: number of statistics of each term.
    """

    names: tuple[str, ...]
    statistics: Tensor
    sizes: tuple[int, ...]


class SegmentationLoss(nn.Module):
    """Equation (5): `L = L_p + λ Σ_i L_si`; every term is the configured loss of one output.

    A call returns statistics instead of losses. Data-parallel workers add them up before `total`
    computes the loss, so it does not depend on how the batch is divided.
    """

    def __init__(
        self,
        config: LossConfig | None = None,
        classes: int = 0,
        frequencies: Sequence[float] = (),
        image_frequencies: Sequence[float] | None = None,
    ) -> None:
        """Build the losses.

        Args:
            config: the paper's by default.
            classes: number of classes, K.
            frequencies: each class's fraction of the labeled pixels of the training split.
            image_frequencies: each class's fraction of the labeled pixels of the images that
                contain it; by default `frequencies`, as if each image contained all classes.

        Raises:
            ValueError: a loss cannot be imported or does not take its arguments.
        """
        super().__init__()
        self.config = config or LossConfig()
        chosen = self.config.term_configs
        self.weights = [term.weight for term in chosen]
        self.names = _unique([term.name.rpartition(":")[2] for term in chosen])
        from_data = {
            "classes": classes,
            "frequencies": frequencies,
            "image_frequencies": frequencies if image_frequencies is None else image_frequencies,
        }
        self.losses = nn.ModuleList(_build(term, self.config, from_data) for term in chosen)

    def forward(self, output: Output, labels: Tensor) -> LossTerms:
        """Return the terms for `output`, logits `(N, K, h, w)`, and `labels`, int64 `(N, H, W)`."""
        logits, auxiliary = split_output(output)
        named = {"main": logits, **auxiliary}
        names = list(named)
        if len(self.names) > 1:
            names += [f"{head}/{name}" for head in named for name in self.names]
        statistics = [
            loss.statistics(each, labels) for each in named.values() for loss in self.each_loss()
        ]
        sizes = tuple(len(each) for each in statistics)
        return LossTerms(tuple(names), torch.cat(statistics), sizes)

    def total(self, statistics: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the total loss (scalar) and the losses that `LossTerms.names` names, `(T,)`.

        Args:
            statistics: of `LossTerms`, summed over workers and micro-batches.
            sizes: of `LossTerms`.
        """
        count = len(self.names)
        values, weighted = [], []
        for index, each in enumerate(statistics.split(list(sizes))):
            value = self._loss(index % count).value(each)
            values.append(value)
            weighted.append(value * self.weights[index % count])
        outputs = torch.stack(weighted).view(-1, count).sum(dim=1)
        total = outputs[0] + self.config.auxiliary_weight * outputs[1:].sum()
        if count == 1:
            return total, torch.stack(values)
        return total, torch.cat([outputs, torch.stack(values)])

    def each_loss(self) -> Iterator[Loss]:
        """Yield the loss of each term."""
        yield from map(self._loss, range(len(self.losses)))

    def _loss(self, index: int) -> Loss:
        loss = self.losses[index]
        assert isinstance(loss, Loss)
        return loss


def loss_class(term: LossTermConfig) -> type[nn.Module]:
    """Import the class of a term.

    Raises:
        ValueError: the import fails, or the arguments do not fit the class.
    """
    cls: type[nn.Module] = LOSSES.find(term.name)
    passed = {}
    if issubclass(cls, Loss):
        passed["classes"] = "the number of classes of the data set"
        for name in ("frequencies", "image_frequencies"):
            passed[name] = "computed from the data set"
    if term.name == MINED:
        passed = {name: f"training.loss.{name}" for name in ("threshold", "share")}
    LOSSES.check_arguments(term.name, cls, term.arguments, passed)
    return cls


def _build(term: LossTermConfig, config: LossConfig, from_data: Mapping[str, object]) -> Loss:
    """Return the loss of a term. from_data: arguments that a constructor gets if it has them."""
    cls = loss_class(term)
    values: dict[str, object] = {}
    if term.name == MINED:
        values = {"threshold": config.threshold, "share": config.share}
    elif issubclass(cls, Loss):
        values = {name: each for name, each in from_data.items() if takes_argument(cls, name)}
    with failures_as(ValueError, f"loss {term.name}: its constructor failed"):
        loss = cls(**values, **term.arguments)
    return loss if isinstance(loss, Loss) else ByWorker(loss)


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, with a number where one occurs again."""
    return [
        name + (str(names[: index + 1].count(name)) if name in names[:index] else "")
        for index, name in enumerate(names)
    ]


def split_output(output: Output) -> tuple[Tensor, dict[str, Tensor]]:
    """Split the output of a network into logits and auxiliary logits by name.

    `output` is a tensor of logits, or a pair of logits and auxiliary logits. The latter are a
    mapping by name, or a sequence, which gets the names "auxiliary1", "auxiliary2", ...

    Raises:
        TypeError: `output` has another form.
    """
    if isinstance(output, Tensor):
        return output, {}
    if isinstance(output, tuple | list) and len(output) == 2 and isinstance(output[0], Tensor):
        logits, auxiliary = output
        if isinstance(auxiliary, Mapping):
            return logits, dict(auxiliary)
        if isinstance(auxiliary, tuple | list):
            return logits, {f"auxiliary{i}": a for i, a in enumerate(auxiliary, start=1)}
    raise TypeError(
        f"a network returned {type(output).__name__}; it must return logits (N, K, h, w), "
        "or (logits, {name: auxiliary logits})"
    )
