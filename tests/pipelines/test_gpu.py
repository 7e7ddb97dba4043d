"""GPUs that torch cannot use."""

from pathlib import Path

import pytest

from pipelines import gpu


def test_gpu_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu, "_GPUS", tmp_path)
    assert gpu.gpu_problem() == ""
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr("torch.version.cuda", None)
    assert "is a build without CUDA; install a CUDA build of torch" in gpu.gpu_problem()

    def old_driver() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.init", old_driver)
    assert "is too old (found version 11040)); update the driver" in gpu.gpu_problem()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.gpu_problem() == ""
