"""The cost of a network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCost:
    """The cost of a network.

    parameters_m: parameters in millions, without auxiliary heads.
    gflops: multiply-adds / 1e9 for one image of `size`.
    size: (height, width) in pixels, that of the training crop.
    values_m: all values in the state dict, in millions; 0 if the network was not built.
    """

    parameters_m: float
    gflops: float
    size: tuple[int, int]
    values_m: float = 0.0
