"""The work of `models.profile`: count the costs of the paper's networks and print them."""

import argparse
import json
from dataclasses import asdict, dataclass, field, replace

from models.config import backbone_names
from models.cost import count_parameters, multiply_adds_by_part, on_meta, parts
from models.fenet import FENet
from models.latency import default_device, measure_latency
from models.paper import CONFIGURATIONS, PAPER

#: The paper's names for parts of the network.
_PART_NAMES = {"neck": "laterals+ppm", "flows.detail": "df", "flows.semantic": "sf"}


@dataclass
class Cost:
    """Parameters in millions and multiply-adds in 1e9 of a part of a network."""

    params_m: float
    gflops: float


@dataclass
class CostRow:
    """A row of the table, or an object of `--json`; None for a value that is not available."""

    name: str
    backbone: str
    params_m: float
    gflops: float
    paper_params_m: float | None = None
    paper_gflops: float | None = None
    parts: dict[str, Cost] = field(default_factory=dict)
    latency_ms: float | None = None
    memory_mib: float | None = None


def profile(
    name: str, backbone: str, classes: int, height: int, width: int, latency: bool = False
) -> CostRow:
    """Return the row of one of `CONFIGURATIONS`, with its parts; `latency`: measure it, too."""
    config = replace(CONFIGURATIONS[name], backbone=backbone)
    model = on_meta(config, classes)
    multiply_adds = multiply_adds_by_part(model, classes, height, width)
    costs = {
        _PART_NAMES.get(part, part): Cost(count_parameters(module) / 1e6, multiply_adds[part] / 1e9)
        for part, module in parts(model).items()
    }
    row = CostRow(
        name,
        backbone,
        count_parameters(model) / 1e6,
        sum(multiply_adds.values()) / 1e9,
        parts=costs,
    )
    if latency:
        row.latency_ms, row.memory_mib = measure_latency(
            lambda: FENet(config, classes), height, width, default_device()
        )
    return _with_paper_values(row, classes, height, width)


def _with_paper_values(row: CostRow, classes: int, height: int, width: int) -> CostRow:
    """Add the paper's values if they were reported for these classes and this size."""
    params, gflops = PAPER.get((row.backbone, row.name), (None, None))
    row.paper_params_m = params if classes == 19 else None
    row.paper_gflops = gflops if (classes, height, width) == (19, 1024, 1024) else None
    return row


def profile_all(
    names: list[str], backbones: list[str], classes: int, height: int, width: int, latency: bool
) -> list[CostRow]:
    """Return a row per configuration and backbone, and after "fenet" one for each flow alone."""
    rows = []
    for backbone in backbones:
        for name in names:
            row = profile(name, backbone, classes, height, width, latency)
            rows.append(row)
            if name == "fenet":
                for flow in ("df", "sf"):
                    cost = row.parts[flow]
                    alone = CostRow(flow, backbone, cost.params_m, cost.gflops)
                    rows.append(_with_paper_values(alone, classes, height, width))
    return rows


def table(rows: list[CostRow], with_parts: bool, latency: bool) -> str:
    """Format the rows as aligned text: our value, the paper's value, difference in percent."""
    head = ["backbone", "network", "params M", "paper", "diff %", "GFLOPs", "paper", "diff %"]
    lines = [[*head, "ms", "peak MiB"] if latency else head]
    for row in rows:
        line = [
            row.backbone,
            row.name,
            *_comparison(row.params_m, row.paper_params_m),
            *_comparison(row.gflops, row.paper_gflops),
        ]
        if latency:
            line += [_number(row.latency_ms, 1), _number(row.memory_mib, 0)]
        lines.append(line)
        if with_parts:
            for part, cost in row.parts.items():
                values = [_number(cost.params_m, 3), "", "", _number(cost.gflops, 2), "", ""]
                lines.append(["", f"  {part}", *values, *[""] * (len(line) - 8)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _comparison(measured: float, paper: float | None) -> list[str]:
    if paper is None:
        return [_number(measured, 3), "", ""]
    return [_number(measured, 3), _number(paper, 1), f"{100 * (measured / paper - 1):+.2f}"]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def print_table(options: argparse.Namespace) -> None:
    """Print the table or the JSON list that the options of `models.profile` describe."""
    names = options.networks or list(CONFIGURATIONS)
    backbones = options.backbone or ["resnet101", "resnet18"]
    if "all" in backbones:
        backbones = backbone_names()
    height, width = options.size
    rows = profile_all(names, backbones, options.classes, height, width, options.latency)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(table(rows, options.parts, options.latency))
    size = f"{height} x {width} pixels (height x width)"
    print(f"\n{options.classes} classes, {size}; GFLOPs: multiply-adds / 1e9")
    if options.latency:
        print(f"latency: batch of one, float32, channels-last, on {default_device()}")
