"""Choice and application of precision and memory format."""

import pytest
import torch
from torch import nn

from pipelines.network.precision import (
    Numerics,
    PrecisionError,
    check_precision,
    has_native_bfloat16,
    resolve_precision,
)

CPU = torch.device("cpu")


def test_explicit_precision_is_kept() -> None:
    for native in (True, False):
        assert resolve_precision("fp32", native) == "fp32"
        assert resolve_precision("bf16", native) == "bf16"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_cpu_follows_native_onednn_support(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    assert resolve_precision("auto", has_native_bfloat16("cpu")) == expected


@pytest.mark.parametrize(
    ("device", "precision", "channels_last"),
    [("cpu", "fp32", True), ("cpu", "bf16", True), ("cuda", "fp32", False), ("cuda", "bf16", True)],
)
def test_auto_memory_format_follows_device_and_precision(
    device: str, precision: str, channels_last: bool
) -> None:
    assert Numerics.choose(torch.device(device), precision).channels_last == channels_last


@pytest.mark.parametrize("memory_format", ["channels-last", "contiguous"])
def test_memory_format_applies_to_weights_and_images(memory_format: str) -> None:
    numerics = Numerics.choose(CPU, "fp32", memory_format)
    model = numerics.to_device(nn.Conv2d(3, 8, 3))
    images = numerics.to_memory_format(torch.randn(2, 3, 9, 9))
    expected = torch.channels_last if memory_format == "channels-last" else torch.contiguous_format
    assert model.weight.is_contiguous(memory_format=expected)
    assert images.is_contiguous(memory_format=expected)


def test_precision_determines_the_convolution_dtype() -> None:
    layer, images = nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with Numerics.choose(CPU, precision).autocast():
            assert layer(images).dtype == dtype


@pytest.mark.parametrize(("capability_8", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_cuda_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability_8: bool, expected: str
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or capability_8

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert resolve_precision("auto", has_native_bfloat16("cuda")) == expected
    if not capability_8:
        with pytest.raises(PrecisionError, match="only emulate bfloat16; set it to fp32 or auto"):
            check_precision("bf16", "cuda", has_native_bfloat16("cuda"))
    check_precision("auto", "cuda", capability_8)
    check_precision("bf16", "cpu", capability_8)


def test_float32_on_cuda_is_not_tf32() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.allow_tf32 = True
    try:
        assert cudnn.conv.fp32_precision == "tf32"
        Numerics.choose(torch.device("cuda"), "fp32")
        for operation in (matmul, cudnn.conv):
            assert operation.fp32_precision == "ieee"
        # Other libraries still read the former names.
        assert not matmul.allow_tf32
        assert not cudnn.allow_tf32
    finally:
        cudnn.allow_tf32 = True  # torch's default
