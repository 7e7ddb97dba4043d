"""How much mIoU varies over seeds: pooled over the rows of a grid cell.

Two or three seeds say little about the spread of one row, but the rows of a grid cell together say
much more. Rows share their seeds (order of images, augmentation, initial values), so mIoU is modeled
as row + seed + residual (randomized blocks; incomplete ones if trials are missing). The mean square
of the residuals has (rows - 1)(seeds - 1) degrees of freedom instead of seeds - 1.

This assumes that all rows vary equally over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Scores = Mapping[int, float]


@dataclass(frozen=True)
class Residuals:
    """What the model row + seed leaves of mIoU: the sum of squares, and its degrees of freedom."""

    squares: float
    freedom: int

    @property
    def mean_square(self) -> float:
        """The variance over seeds of one row; 0 without degrees of freedom."""
        return self.squares / self.freedom if self.freedom else 0.0

    def minus(self, other: "Residuals") -> "Residuals":
        """Return the part that rows add which `other` leaves out."""
        return Residuals(max(0.0, self.squares - other.squares), self.freedom - other.freedom)


def residuals(rows: Sequence[Scores]) -> Residuals:
    """Fit mIoU by seed of each row as row + seed (least squares); rows may lack seeds."""
    values = [
        (index, seed, value) for index, row in enumerate(rows) for seed, value in row.items()
    ]
    seeds = sorted({seed for _, seed, _ in values})
    design = np.zeros((len(values), len(rows) + len(seeds)))
    for line, (index, seed, _) in enumerate(values):
        design[line, index] = design[line, len(rows) + seeds.index(seed)] = 1
    observed = np.array([value for _, _, value in values])
    # A common offset changes nothing and costs precision.
    observed = observed - observed.mean() if len(values) else observed
    solution, _, rank, _ = np.linalg.lstsq(design, observed, rcond=None)
    left = observed - design @ solution
    return Residuals(float(left @ left), len(values) - int(rank))
