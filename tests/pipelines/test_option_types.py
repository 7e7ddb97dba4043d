"""Sizes of images as options."""

from argparse import ArgumentTypeError

import pytest

from pipelines.option_types import parse_size


def test_height_comes_first() -> None:
    assert parse_size("512x1024") == parse_size("512X1024") == (512, 1024)
    assert parse_size("16x17", least=16) == (16, 17)


@pytest.mark.parametrize("text", ["", "64", "0x9", "9x0", "-4x4", "4x4x4", " 4x4", "4_0x4", "axb"])
def test_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"at least 1x1; received '{text}'"):
        parse_size(text)
    with pytest.raises(ArgumentTypeError, match="at least 16x16; received '15x99'"):
        parse_size("15x99", least=16)
