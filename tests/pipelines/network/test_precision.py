"""Choice and application of precision and memory format."""

import pytest
import torch
from torch import nn

from pipelines.network.precision import Numerics, resolve_precision

CPU = torch.device("cpu")


def test_explicit_precision_is_kept() -> None:
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("bf16", "cpu") == "bf16"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_cpu_follows_native_onednn_support(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    assert resolve_precision("auto", "cpu") == expected
    assert Numerics.choose(CPU).channels_last == native


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
