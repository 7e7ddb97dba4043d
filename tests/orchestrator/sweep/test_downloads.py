"""Published weights are downloaded before the data is opened."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.sweep.downloads import download_weights
from pipelines.network.published_weights import (
    MIRROR_VARIABLE,
    PUBLISHED_WEIGHTS,
    DownloadedWeights,
)
from pipelines.network.weight_files import WeightsError
from pipelines.training.experiment import Experiment
from tests.support.file_server import serving_file


def test_missing_weights_are_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "some", DownloadedWeights("https://host.invalid/a.pth"))
    experiment = Experiment()
    training = replace(experiment.training, backbone_weights="some")
    experiments = [experiment, replace(experiment, training=training)] * 2
    console = Console(width=300)
    with serving_file(b"PK weights") as server, console.capture() as capture:
        monkeypatch.setenv(MIRROR_VARIABLE, server.url)
        download_weights(experiments, console)
        download_weights(experiments, console)
    assert capture.get() == f"downloading some from {server.url}/a.pth\n"
    assert (tmp_path / "hub/checkpoints/a.pth").read_bytes() == b"PK weights"
    assert server.requested == [None]
    (tmp_path / "hub/checkpoints/a.pth").unlink()
    monkeypatch.setenv(MIRROR_VARIABLE, "/a/folder")
    with pytest.raises(WeightsError, match=rf"^some: .* http.*\({MIRROR_VARIABLE} is set\)"):
        download_weights(experiments, console)
