"""The network of an experiment and its numerical format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models import FENetConfig
from models.registry import NETWORKS

Precision = Literal["auto", "bf16", "fp32"]
MemoryFormat = Literal["auto", "channels-last", "contiguous"]


@dataclass(frozen=True)
class NetworkConfig:
    """A custom network.

    Random numbers that it draws from torch's generator during training depend on seed, step and
    rank. A resumed training therefore draws the same numbers, but, unlike FENet's dropout, a
    training with another number of workers does not.

    network: `package.module:Class` of an `nn.Module` that maps images `(N, C, H, W)` to logits
        `(N, classes, h, w)`, or during training to `(logits, auxiliary logits)`; or `hf:NAME` of a
        network in `transformers`: a type of model (`hf:segformer`), the folder of a saved model
        (`hf:./folder`) or a model on the hub (`hf:OWNER/NAME`).
    arguments: arguments of its constructor, besides `classes`, which is always passed; for
        `hf:NAME`, entries of its configuration.
    """

    __pydantic_config__ = {"extra": "forbid"}

    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        NETWORKS.check(self.network, "network")


ModelConfig = FENetConfig | NetworkConfig
