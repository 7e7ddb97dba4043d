"""Weights from files and URIs, and rejected content."""

import pickle
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch

from pipelines.network.weight_files import WeightsError, weights_digest
from pipelines.network.weights import read_weights

STATE = {"layer1.0.conv1.weight": torch.arange(6.0).reshape(1, 6, 1, 1), "bn": torch.ones(2)}


class Payload:
    """Writes a file when it is unpickled, as a malicious checkpoint would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return (Path.touch, (self.target,))


def equals_state(weights: object) -> bool:
    assert isinstance(weights, dict)
    return weights.keys() == STATE.keys() and all(torch.equal(weights[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights", "weights.pth"])
def test_safetensors_are_detected_by_content(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file(STATE, tmp_path / name)
    assert equals_state(read_weights(tmp_path / name))


@pytest.mark.parametrize("zipped", [True, False])
def test_zip_and_legacy_checkpoints_are_read(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    content = {"state_dict": STATE, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    weights = read_weights(str(path))
    assert equals_state(weights["state_dict"])
    assert weights["epoch"] == 3


def test_weights_are_read_from_uris(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    assert equals_state(read_weights(path.as_uri()))
    with fsspec.open("memory://bucket/weights.pth", "wb") as stream:
        stream.write(path.read_bytes())
    assert equals_state(read_weights("memory://bucket/weights.pth"))
    assert weights_digest("memory://bucket/weights.pth") == weights_digest(path)


def test_digest_depends_only_on_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    safetensors.torch.save_file(STATE, one)
    safetensors.torch.save_file({**STATE, "bn": torch.zeros(2)}, two)
    assert weights_digest(one) == weights_digest(str(one))
    assert weights_digest(one) != weights_digest(two)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_executed(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": Payload(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"weights\.pth: not loaded.*convert it to safetensors"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError, match=r"weights\.pth: "):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    saved = safetensors.torch.save(STATE)
    torch.save(STATE, tmp_path / "whole")
    checkpoint = (tmp_path / "whole").read_bytes()
    for damaged in (saved[:-3], checkpoint[:-40], checkpoint[:1], b"\x80", b"", b"<html>", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"weights: "):
            read_weights(path)


def test_unexpected_content_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([torch.ones(2)], path)
    with pytest.raises(WeightsError, match="holds list, not a mapping"):
        read_weights(path)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("absent.pth", "no such file"),
        ("memory://nowhere/absent.pth", "no such file"),
        ("nosuchscheme://host/file", "cannot be opened"),
    ],
)
def test_unavailable_uris_are_rejected(uri: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_weights(uri)
    with pytest.raises(WeightsError, match=message):
        weights_digest(uri)


def test_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path)
