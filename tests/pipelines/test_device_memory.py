"""What counts as peak memory on a GPU and on a CPU."""

import pytest
import torch

from pipelines.device_memory import peak_memory_gib
from pipelines.machine import peak_resident_gib


def test_peak_memory_is_reserved_on_a_gpu_and_resident_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
    assert peak_memory_gib(torch.device("cuda")) == 3
    before = peak_resident_gib()
    assert before <= peak_memory_gib(torch.device("cpu")) <= peak_resident_gib()
