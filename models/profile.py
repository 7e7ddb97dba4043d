"""Compares the parameters and multiply-adds of the paper's networks with the paper's values.

python -m models.profile                                    # all networks with paper values
python -m models.profile fenet --backbone dfnet1 --parts
python -m models.profile --size 1024x2048 --classes 19 --latency --json
"""

import argparse
import json
import re
import sys
from dataclasses import asdict, dataclass, field, replace

from models.backbones import BACKBONES
from models.cost import count_parameters, multiply_adds_by_part, on_meta, parts
from models.fenet import FENet, FENetConfig
from models.latency import default_device, measure_latency

#: The configurations of the paper's tables; the rows "df" and "sf" are parts of "fenet".
CONFIGURATIONS = {
    "baseline": FENetConfig(ppm=False, flows=()),
    "strong": FENetConfig(flows=()),
    "strong+df": FENetConfig(flows=("detail",)),
    "strong+sf": FENetConfig(flows=("semantic",)),
    "fenet": FENetConfig(flows=("detail", "semantic")),
}

#: Tables 2 and 3(a): parameters in millions and multiply-adds in 1e9, for 1024 x 1024 pixels and 19
#: classes.
PAPER: dict[tuple[str, str], tuple[float, float | None]] = {
    ("resnet101", "baseline"): (44.2, 239.2),
    ("resnet101", "strong"): (46.6, 239.5),
    ("resnet101", "df"): (8.9, 63.5),
    ("resnet101", "sf"): (8.9, 254.0),
    ("resnet101", "fenet"): (66.0, None),
    ("resnet18", "fenet"): (16.8, None),
}

#: The paper's names of the network's parts.
_PART_NAMES = {"neck": "laterals+ppm", "flows.detail": "df", "flows.semantic": "sf"}


@dataclass
class Cost:
    """Cost of a part: parameters in millions and multiply-adds in 1e9."""

    params_m: float
    gflops: float


@dataclass
class ProfileRow:
    """A line of the table and an object of `--json`; None means that the value is unknown."""

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
) -> ProfileRow:
    """Return the row of one of `CONFIGURATIONS`, with its parts."""
    config = replace(CONFIGURATIONS[name], backbone=backbone)
    model = on_meta(config, classes)
    multiply_adds = multiply_adds_by_part(model, classes, height, width)
    costs = {
        _PART_NAMES.get(part, part): Cost(count_parameters(module) / 1e6, multiply_adds[part] / 1e9)
        for part, module in parts(model).items()
    }
    row = ProfileRow(
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


def _with_paper_values(row: ProfileRow, classes: int, height: int, width: int) -> ProfileRow:
    """Add the paper's values if they apply to this number of classes and this size."""
    params, gflops = PAPER.get((row.backbone, row.name), (None, None))
    row.paper_params_m = params if classes == 19 else None
    row.paper_gflops = gflops if (classes, height, width) == (19, 1024, 1024) else None
    return row


def profile_all(
    names: list[str], backbones: list[str], classes: int, height: int, width: int, latency: bool
) -> list[ProfileRow]:
    """Return a row per configuration and backbone, and after "fenet" one for each of its flows."""
    rows = []
    for backbone in backbones:
        for name in names:
            row = profile(name, backbone, classes, height, width, latency)
            rows.append(row)
            if name == "fenet":
                for flow in ("df", "sf"):
                    cost = row.parts[flow]
                    flow_row = ProfileRow(flow, backbone, cost.params_m, cost.gflops)
                    rows.append(_with_paper_values(flow_row, classes, height, width))
    return rows


def table(rows: list[ProfileRow], with_parts: bool, latency: bool) -> str:
    """Format the rows as aligned text: value, the paper's value, difference in percent."""
    header = ["backbone", "network", "params M", "paper", "diff %", "GFLOPs", "paper", "diff %"]
    lines = [[*header, "ms", "peak MiB"] if latency else header]
    for row in rows:
        line = [
            row.backbone,
            row.name,
            *_compare(row.params_m, row.paper_params_m),
            *_compare(row.gflops, row.paper_gflops),
        ]
        if latency:
            line += [_format(row.latency_ms, 1), _format(row.memory_mib, 0)]
        lines.append(line)
        if with_parts:
            for part, cost in row.parts.items():
                values = [_format(cost.params_m, 3), "", "", _format(cost.gflops, 2), "", ""]
                lines.append(["", f"  {part}", *values, *[""] * (len(line) - 8)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _compare(measured: float, paper: float | None) -> list[str]:
    """Return the cells measured value, paper's value and difference in percent."""
    if paper is None:
        return [_format(measured, 3), "", ""]
    return [_format(measured, 3), _format(paper, 1), f"{100 * (measured / paper - 1):+.2f}"]


def _format(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _parse_size(text: str) -> tuple[int, int]:
    """Return height and width from `N` or `HEIGHTxWIDTH`."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; use 1024 or 1024x2048")
    return int(match[1]), int(match[2] or match[1])


def _parse_classes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of classes; use 1 or more")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command `python -m models.profile`."""
    parser = argparse.ArgumentParser(
        prog="python -m models.profile",
        description="Print the parameters and multiply-adds (GFLOPs, as counted in the paper) of "
        "the paper's networks for one image, without auxiliary heads, and compare them with its "
        "Tables 2 and 3(a).",
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help=f"one or more of {', '.join(CONFIGURATIONS)}; default: all",
    )
    parser.add_argument(
        "--backbone",
        action="append",
        choices=[*sorted(BACKBONES), "all"],
        metavar="NAME",
        help=f"{', '.join(sorted(BACKBONES))} or all; can be repeated; "
        "default: resnet101 and resnet18, the backbones with paper values",
    )
    parser.add_argument(
        "--size",
        type=_parse_size,
        default=(1024, 1024),
        metavar="N|HxW",
        help="image size in pixels; default: 1024",
    )
    parser.add_argument(
        "--classes",
        type=_parse_classes,
        default=19,
        metavar="N",
        help="number of classes; default: 19",
    )
    parser.add_argument("--parts", action="store_true", help="show the parts of each network")
    parser.add_argument(
        "--latency",
        action="store_true",
        help="run each network on one image on this machine and show milliseconds and peak memory",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list of objects, including the parts"
    )
    options = parser.parse_args(arguments)
    for name in options.networks:
        if name not in CONFIGURATIONS:
            parser.error(f"unknown network {name!r}; available: {', '.join(CONFIGURATIONS)}")

    names = options.networks or list(CONFIGURATIONS)
    backbones = options.backbone or ["resnet101", "resnet18"]
    if "all" in backbones:
        backbones = sorted(BACKBONES)
    height, width = options.size
    rows = profile_all(names, backbones, options.classes, height, width, options.latency)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print(table(rows, options.parts, options.latency))
    print(f"\n{options.classes} classes, {height} x {width}; GFLOPs: multiply-adds / 1e9")
    if options.latency:
        print(f"latency: batch of one, float32, channels-last, on {default_device()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
