"""Which types of GPUs compute bfloat16."""

import pytest

from orchestrator.scheduling.devices import have_bfloat16


@pytest.mark.parametrize(
    "gpu_type",
    ["K80", "M60", "P4", "P100", "V100", "T4", "T4G", "GeForce-RTX-2080-Ti", "GeForce-GTX-1080"]
    + ["Quadro-RTX-6000", "TITAN-RTX", "T1000"],
)
def test_gpus_before_ampere_have_no_bfloat16(gpu_type: str) -> None:
    assert not have_bfloat16([gpu_type])
    assert not have_bfloat16(["H100", gpu_type])


@pytest.mark.parametrize(
    "gpu_type",
    ["A100", "A10G", "L4", "L40S", "H100", "H200", "B200", "GB300", "RTX-PRO-6000", "RTX-A6000"]
    + ["GeForce-RTX-3090", "GeForce-RTX-4090", "AMD-Instinct-MI300X-OAM", "A100-80G"],
)
def test_other_gpus_have_bfloat16(gpu_type: str) -> None:
    assert have_bfloat16([gpu_type])


def test_unknown_gpus_count_as_native() -> None:
    assert have_bfloat16([])
