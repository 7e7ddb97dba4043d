"""How much mIoU varies over seeds: pooled over the rows of a grid cell.

Two or three seeds say little about the spread of one row, but all rows of a grid cell together say
much more. Rows share their seeds (the order of images, augmentation, initial values), so mIoU is
modeled as row + seed + residual (randomized complete blocks; with missing trials, incomplete
blocks). The residuals' mean square has (rows - 1)(seeds - 1) degrees of freedom instead of
seeds - 1.

This assumes that all rows vary equally over seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class SeedError:
    """Standard error over seeds of a mean difference in points, with its degrees of freedom."""

    standard_error: float
    freedom: float
    method: Literal["pooled", "own spread"]
