"""When an exported file counts as computing what torch computes."""

import pytest
import torch
from torch import Tensor, nn

from orchestrator.evaluation.agreement import agreement
from pipelines.network.export import ExportError

IMAGES = [torch.linspace(-1, 1, 96).reshape(1, 3, 4, 8), torch.ones(1, 3, 2, 2)]


class Network(nn.Module):
    """Logits of two classes: 1 and -1, of which the first is the larger."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(images[:, :1]), -torch.ones_like(images[:, :1])], 1)


def test_small_differences_agree() -> None:
    text = agreement(Network(), lambda images: Network()(images) - 4e-4, IMAGES, "file", None)
    assert text == (
        "logits differ by at most 0.0004, 100.000 % of the pixels get the class that torch predicts"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits - 0.5, "differ by at most 0.5, 100.000 % of the pixels"),
        (lambda logits: logits * torch.nan, "differ by at most nan, "),
        (lambda logits: logits.flip(1), "differ by at most 2, 0.000 % of the pixels"),
        # In half of the columns.
        (
            lambda logits: torch.cat([logits[..., ::2].flip(1), logits[..., 1::2]], 3),
            "differ by at most 2, 50.000 % of the pixels .* of 2 images; nothing was written",
        ),
        (lambda logits: logits[..., :1], r"returns \(1, 2, 4, 1\) for an image of 4 x 8 pixels"),
    ],
)
def test_other_logits_are_an_error(change: object, message: str) -> None:
    def exported(images: Tensor) -> Tensor:
        assert callable(change)
        changed: Tensor = change(Network()(images))
        return changed

    with pytest.raises(ExportError, match=message):
        agreement(Network(), exported, IMAGES, "file", (4, 8))
