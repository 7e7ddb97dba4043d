"""Twelve images of four channels of 16 bits: prepared, trained, predicted, served, exported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from orchestrator.export import main as export
from orchestrator.predict import main as predict
from pipelines.prepare import main as prepare
from pipelines.serving import SegmentationModel
from pipelines.train import main as train
from tests.support.many_channels import write_field

EXPERIMENT = """\
data: {dataset: field, crop: [64, 64]}
model: {backbone: dfnet1-half, channels: 8, flows: [detail], ppm: false}
training: {epochs: 2, batch: 4, precision: fp32}
"""


@pytest.mark.slow
def test_from_tiff_to_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = write_field(tmp_path / "source")
    assert prepare(["folder", "--source", "source", "--destination", "field", "--workers=1"]) == 0
    assert "4 channels of 16 bits, scale [0, 4095]" in capsys.readouterr().out
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert train(["experiment.yaml", "--out", "one", "--device=cpu"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert "have no saturation and hue" in capsys.readouterr().out
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "pipelines.train", "experiment.yaml", "--out", "two", "--device=cpu"]
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, *launcher, *command], check=True, env={**os.environ, "PYTHONPATH": path}
    )
    one, two = (load_file(Path(name) / "last/model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-3)  # float32 rounding

    assert predict(["one/last", "source/images/val/0.tif", "--out", "out", "--overlay"]) == 0
    predicted = np.asarray(Image.open("out/0.png"))
    served = SegmentationModel(Path("one/last"))
    assert np.array_equal(served.predict(source["0"]), predicted)
    with pytest.raises(ValueError, match=r"must be a uint16 array \(height, width, 4\)"):
        served.predict(np.zeros((64, 64, 3), np.uint8))

    assert export(["one/last", "--out", "exported", "--format", "onnx"]) == 0
    metadata = json.loads(Path("exported/metadata.json").read_text())
    mean, std = (np.array(metadata[key]) for key in ("mean", "std"))
    normalized = ((source["0"] / 4095 - mean) / std).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession("exported/model.onnx")
    (logits,) = session.run(None, {"images": normalized.astype(np.float32)})
    assert (logits[0].argmax(0) == predicted).mean() > 0.999
