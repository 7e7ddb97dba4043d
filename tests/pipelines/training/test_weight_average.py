"""The moving average of the weights, against its formula in float64."""

import torch
from torch import nn

from pipelines.training.weight_average import WeightAverage


def test_average_follows_its_formula_and_copies_integers() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    average = WeightAverage(model, decay=0.5)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for number in range(1, 15):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape)
        model(torch.randn(2, 2, 4, 4))
        average.update(model, number)
        decay = min(0.5, number / (number + 9))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.model.state_dict()["1.num_batches_tracked"] == 14
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_shared_value_is_averaged_once() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"first": shared, "again": shared})
    start = shared.weight.detach().clone()
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        shared.weight += 1
    average.update(model, number=91)  # 91 / (91 + 9) is above the decay
    torch.testing.assert_close(average.model["again"].weight, start + 0.5)  # type: ignore[index]
