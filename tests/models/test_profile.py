"""Parameter and multiply-add counts, the values of the paper, and the command."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import FENet, FENetConfig, count_multiply_adds, count_parameters
from models.cost import parts
from models.cost_table import profile
from models.enhancement import Extractor
from models.latency import measure_latency
from models.profile import main


def count_with_hooks(model: nn.Module, image: Tensor) -> int:
    """Sum output values times kernel taps over all convolutions."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        weight = module.kernel if isinstance(module, Extractor) else module.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | Extractor):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(image)
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        FENetConfig("resnet18", channels=8, supervision=(3, 4)),
        FENetConfig("dfnet2", channels=8, ppm=False, flows=("semantic",), extractor_kernel=5),
    ],
)
def test_multiply_adds_include_every_convolution(config: FENetConfig) -> None:
    model = FENet(config, 5)
    expected = count_with_hooks(model, torch.randn(1, 3, 70, 101))
    assert count_multiply_adds(config, 5, 70, 101) == expected
    assert count_multiply_adds(model, 5, 70, 101) == expected
    assert next(model.parameters()).device.type == "cpu"


def test_multiply_adds_of_a_custom_network() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.classifier = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.classifier(self.conv(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert count_multiply_adds(Network(), 2, 6, 7) == 6 * 7 * (3 * 9 * 4 + 4 * 2)


def test_multiply_adds_match_the_torch_counter() -> None:
    """Resizing in all forms, norms and matrix products, as counted by torch on real values."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
            self.classifier = nn.Conv2d(8, 2, 1)
            nn.init.uniform_(self.classifier.weight, 0.5, 1)

        def forward(self, images: Tensor) -> Tensor:
            features = self.conv(images)
            for resized in ({"size": (9, 11)}, {"size": 8}, {"scale_factor": 1.5}):
                features = F.interpolate(features, **resized)
            pixels = features.flatten(2)
            weighted = pixels @ (pixels.transpose(1, 2) @ pixels).softmax(-1)
            return self.classifier(weighted.unflatten(2, features.shape[-2:]))

    model = Network().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 30, 41))
    before = model.classifier.weight.clone()
    assert count_multiply_adds(model, 2, 30, 41) == counter.get_total_flops() // 2
    assert torch.equal(model.classifier.weight, before)


def test_operations_on_several_dtypes_are_counted() -> None:
    """Their results have the dtype that torch gives them, so that the convolutions accept them."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.classifier = nn.Conv2d(11, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            features = self.conv(images)
            masked = (features > 0) * features
            halves = features.half() + features
            rows = torch.arange(images.shape[2], device=images.device) * 0.5
            rows = rows[:, None].expand(1, 1, *images.shape[2:])
            signs = F.adaptive_avg_pool2d((features > 0)[0, :2] * 1.0, images.shape[2:])[None]
            return self.classifier(
                torch.cat([(features[:, :3] > 0), masked, rows, signs, halves[:, :1]], 1)
            )

    model = Network().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 12, 10))
    assert count_multiply_adds(model, 2, 12, 10) == counter.get_total_flops() // 2


def test_auxiliary_heads_are_counted_only_on_request() -> None:
    plain = FENet(FENetConfig("dfnet1", channels=8), 5)
    supervised = FENet(FENetConfig("dfnet1", channels=8, supervision=(4,)), 5)
    heads = sum(p.numel() for p in supervised.auxiliary.parameters())
    assert heads > 0
    assert count_parameters(supervised) == count_parameters(plain)
    assert count_parameters(supervised, auxiliary=True) == count_parameters(plain) + heads


def test_parts_cover_all_parameters() -> None:
    model = FENet(FENetConfig("dfnet1", channels=8, supervision=(4,)), 5)
    model_parts = parts(model)
    assert list(model_parts) == [
        "backbone", "neck", "flows.detail", "flows.semantic", "head", "auxiliary.stage4",
    ]  # fmt: skip
    total = sum(count_parameters(part) for part in model_parts.values())
    assert total == count_parameters(model, auxiliary=True)


#: Tables 2 and 3(a) as printed in the paper.
PUBLISHED = [
    ("resnet101", "baseline", 44.2, 239.2),
    ("resnet101", "strong", 46.6, 239.5),
    ("resnet101", "df", 8.9, 63.5),
    ("resnet101", "sf", 8.9, 254.0),
    ("resnet101", "fenet", 66.0, None),
    ("resnet18", "fenet", 16.8, None),
]


@pytest.mark.slow
def test_costs_match_the_tables_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    by_name = {(row["backbone"], row["name"]): row for row in rows}
    assert {"baseline", "strong", "strong+df", "strong+sf", "fenet"} <= {r["name"] for r in rows}
    published = {
        key for key, row in by_name.items() if row["paper_params_m"] or row["paper_gflops"]
    }
    assert published == {(backbone, name) for backbone, name, *_ in PUBLISHED}
    for backbone, name, params, gflops in PUBLISHED:
        row = by_name[backbone, name]
        assert (row["paper_params_m"], row["paper_gflops"]) == (params, gflops)
        assert row["params_m"] == pytest.approx(params, rel=0.005)
        if gflops:
            assert row["gflops"] == pytest.approx(gflops, rel=0.005)


def test_cost_of_a_flow_is_the_difference_it_adds() -> None:
    rows = {
        name: profile(name, "dfnet1", 19, 256, 256) for name in ("strong", "strong+df", "fenet")
    }
    flow = rows["fenet"].parts["df"]
    # The flow adds its own cost and widens the head, which concatenates four levels.
    head_growth = 3 * 64 * 64 * 9
    added_params_m = rows["strong+df"].params_m - rows["strong"].params_m
    assert added_params_m == pytest.approx(flow.params_m + head_growth / 1e6)
    added_gflops = rows["strong+df"].gflops - rows["strong"].gflops
    assert added_gflops == pytest.approx(flow.gflops + head_growth * 64 * 64 / 1e9)
    for row in rows.values():
        assert sum(part.params_m for part in row.parts.values()) == pytest.approx(row.params_m)
        assert sum(part.gflops for part in row.parts.values()) == pytest.approx(row.gflops)


def test_table_shows_costs_differences_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "--backbone", "resnet101", "--parts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "resnet101", "baseline", "44.204", "44.2", "+0.01", "238.337", "239.2", "-0.36",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[2:5]] == ["backbone", "laterals+ppm", "head"]
    assert "1024 x 1024" in lines[-1]


def test_paper_values_are_shown_only_for_matching_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["strong", "--backbone", "resnet101", "--size", "128x256", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["paper_params_m"], row["paper_gflops"]) == (46.6, None)
    main(["strong", "--backbone", "resnet101", "--size", "128", "--classes", "150", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["paper_params_m"], row["paper_gflops"]) == (None, None)


@pytest.mark.slow
def test_latency_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    main(["baseline", "--backbone", "dfnet1", "--size", "64", "--latency", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["latency_ms"] > 0
    main(["baseline", "--backbone", "dfnet1", "--size", "64", "--latency"])
    assert "latency: batch of one" in capsys.readouterr().out


@pytest.mark.slow
def test_peak_memory_grows_with_the_image() -> None:
    def peak(size: int) -> float | None:
        config = FENetConfig("dfnet1", ppm=False, flows=())
        return measure_latency(lambda: FENet(config, 19), size, size, torch.device("cpu"))[1]

    small, large = peak(64), peak(512)
    if small is None or large is None:
        pytest.skip("this system does not report the peak memory of a process")
    # The logits of 19 classes at 512 x 512 pixels take 19 MiB.
    assert large > small + 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fenett"], "unknown network 'fenett'; known: baseline, strong"),
        (["--backbone", "vgg"], "invalid choice: 'vgg'"),
        (["--size", "12x"], "must be N or HxW, such as 1024x2048; received '12x'"),
        (["--size", "0"], "must be N or HxW, such as 1024x2048; received '0'"),
        (["--classes", "0"], "must be a whole number from 1, received '0'"),
    ],
)
def test_invalid_arguments_are_rejected(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_output_on_a_full_disk_is_one_sentence() -> None:
    command = [sys.executable, "-m", "models.profile", "fenet", "--size", "64"]
    with open("/dev/full", "w") as full:
        completed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (completed.returncode, completed.stderr) == (
        1,
        "error: standard output cannot be written: No space left on device\n",
    )


@pytest.mark.slow
def test_cost_is_counted_without_torchs_compiler() -> None:
    """Importing it takes as long as importing torch."""
    code = (
        "import sys; from models import FENetConfig, count_multiply_adds as count;"
        "count(FENetConfig('resnet18', structure_start='low-pass'), 19, 96, 130);"
        "count(FENetConfig('dfnet1', ppm=False, flows=()), 19, 96, 130);"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class _Attention(nn.Module):
    """Convolutions, and products that are not convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4, 6)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images).flatten(2).transpose(1, 2)
        projected = self.linear(features)
        mixed = projected @ projected.transpose(1, 2) @ projected
        return mixed.transpose(1, 2).unflatten(2, images.shape[-2:])


def test_products_other_than_convolutions_are_counted() -> None:
    pixels = 8 * 10
    expected = pixels * (3 * 4 * 9 + 4 * 6) + 2 * pixels * pixels * 6
    assert count_multiply_adds(_Attention(), 6, 8, 10) == expected
