"""A small source folder in the layout of the CamVid data set."""

from pathlib import Path

import numpy as np
from PIL import Image


class CamVidSource:
    """A folder in SegNet's CamVid layout with `samples` pairs per split. Tests may damage it."""

    def __init__(self, directory: Path, samples: int = 3, size: tuple[int, int] = (12, 16)) -> None:
        self.directory = directory
        self.size = size
        directory.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            names = [f"0001TP_{split}{index:03d}" for index in range(samples)]
            for name in names:
                self.add(split, name)
            self.list(split, names)

    def add(self, split: str, name: str, flat: bool = False) -> None:
        """Write an image and its label: noise, or with `flat` one color and class (fast)."""
        rng = np.random.default_rng(sum(name.encode()))
        pixels = rng.integers(0, 256, (1, 1, 3) if flat else (*self.size, 3), dtype=np.uint8)
        label = rng.integers(0, 12, (1, 1) if flat else self.size, dtype=np.uint8)
        pixels = np.broadcast_to(pixels, (*self.size, 3)).copy()
        label = np.broadcast_to(label, self.size).copy()
        for kind, values in ((split, pixels), (f"{split}annot", label)):
            (self.directory / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(self.directory / kind / f"{name}.png")

    def list(self, split: str, names: list[str], prefix: str = "", end: str = "\n") -> None:
        """Write the list file of a split."""
        lines = [f"{prefix}{split}/{name}.png {prefix}{split}annot/{name}.png" for name in names]
        text = "".join(line + end for line in lines)
        (self.directory / f"{split}.txt").write_text(text, encoding="utf-8", newline="")

    def image(self, split: str = "train", index: int = 0) -> Path:
        return self.directory / split / f"0001TP_{split}{index:03d}.png"

    def label(self, split: str = "train", index: int = 0) -> Path:
        return self.directory / f"{split}annot" / f"0001TP_{split}{index:03d}.png"
