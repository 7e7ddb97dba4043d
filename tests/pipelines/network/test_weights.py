"""Weights from files and URIs, and what is refused."""

import pickle
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch

from pipelines.network.weights import WeightsError, read_weights, weights_digest

STATE = {"layer1.0.conv1.weight": torch.arange(6.0).reshape(1, 6, 1, 1), "bn": torch.ones(2)}


class Payload:
    """Writes a file when it is unpickled, as a malicious checkpoint would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return (Path.touch, (self.target,))


def same(found: object) -> bool:
    assert isinstance(found, dict)
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights", "weights.pth"])
def test_safetensors_by_content(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file(STATE, tmp_path / name)
    assert same(read_weights(tmp_path / name))


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_new_and_old(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    content = {"state_dict": STATE, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_weights(str(path))
    assert same(found["state_dict"])
    assert found["epoch"] == 3


def test_through_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    assert same(read_weights(path.as_uri()))
    with fsspec.open("memory://bucket/weights.pth", "wb") as stream:
        stream.write(path.read_bytes())
    assert same(read_weights("memory://bucket/weights.pth"))
    assert weights_digest("memory://bucket/weights.pth") == weights_digest(path)


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    safetensors.torch.save_file(STATE, one)
    safetensors.torch.save_file({**STATE, "bn": torch.zeros(2)}, two)
    assert weights_digest(one) == weights_digest(str(one))
    assert weights_digest(one) != weights_digest(two)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": Payload(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"weights\.pth: not loaded.*convert it to safetensors"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError, match=r"weights\.pth: "):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    saved = safetensors.torch.save(STATE)
    torch.save(STATE, tmp_path / "whole")
    checkpoint = (tmp_path / "whole").read_bytes()
    for damaged in (saved[:-3], checkpoint[:-40], checkpoint[:1], b"\x80", b"", b"<html>", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"weights: "):
            read_weights(path)


def test_other_content(tmp_path: Path) -> None:
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
def test_a_place_with_nothing(uri: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_weights(uri)
    with pytest.raises(WeightsError, match=message):
        weights_digest(uri)


def test_a_directory_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path)
