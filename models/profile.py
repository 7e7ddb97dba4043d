"""Parameters and multiply-adds of the paper's networks, with the paper's figures beside them.

python -m models.profile                                    # what the paper gives figures for
python -m models.profile fenet --backbone dfnet1 --parts
python -m models.profile --size 1024x2048 --classes 19 --latency --json
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from models.backbones import BACKBONES
from models.cost import count_parameters, multiply_adds_by_part, on_meta, parts
from models.fenet import FENet, FENetConfig
from models.latency import device_at_hand, measure_latency

#: The configurations of the paper's tables; DF and SF alone are parts of the last.
CONFIGURATIONS = {
    "baseline": FENetConfig(ppm=False, flows=()),
    "strong": FENetConfig(flows=()),
    "strong+df": FENetConfig(flows=("detail",)),
    "strong+sf": FENetConfig(flows=("semantic",)),
    "fenet": FENetConfig(flows=("detail", "semantic")),
}

#: Tables 2 and 3(a): parameters in millions, multiply-adds in 1e9 at 1024 x 1024; 19 classes.
PAPER: dict[tuple[str, str], tuple[float, float | None]] = {
    ("resnet101", "baseline"): (44.2, 239.2),
    ("resnet101", "strong"): (46.6, 239.5),
    ("resnet101", "df"): (8.9, 63.5),
    ("resnet101", "sf"): (8.9, 254.0),
    ("resnet101", "fenet"): (66.0, None),
    ("resnet18", "fenet"): (16.8, None),
}

#: The paper's names for parts of the network.
_PART_NAMES = {"neck": "laterals+ppm", "flows.detail": "df", "flows.semantic": "sf"}


@dataclass
class Cost:
    """Of a part: parameters in millions, multiply-adds in 1e9."""

    params_m: float
    gflops: float


@dataclass
class Row:
    """A line of the table, an object of `--json`; None where there is no figure."""

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
) -> Row:
    """The row of one of `CONFIGURATIONS`, with its parts."""
    config = replace(CONFIGURATIONS[name], backbone=backbone)
    model = on_meta(config, classes)
    multiply_adds = multiply_adds_by_part(model, classes, height, width)
    costs = {
        _PART_NAMES.get(part, part): Cost(count_parameters(module) / 1e6, multiply_adds[part] / 1e9)
        for part, module in parts(model).items()
    }
    row = Row(
        name,
        backbone,
        count_parameters(model) / 1e6,
        sum(multiply_adds.values()) / 1e9,
        parts=costs,
    )
    if latency:
        row.latency_ms, row.memory_mib = measure_latency(
            lambda: FENet(config, classes), height, width, device_at_hand()
        )
    return _beside_the_paper(row, classes, height, width)


def _beside_the_paper(row: Row, classes: int, height: int, width: int) -> Row:
    """Adds the paper's figures where they are for this number of classes and this size."""
    params, gflops = PAPER.get((row.backbone, row.name), (None, None))
    row.paper_params_m = params if classes == 19 else None
    row.paper_gflops = gflops if (classes, height, width) == (19, 1024, 1024) else None
    return row


def profile_all(
    names: list[str], backbones: list[str], classes: int, height: int, width: int, latency: bool
) -> list[Row]:
    """A row each configuration and backbone; after "fenet", rows for its two flows alone."""
    rows = []
    for backbone in backbones:
        for name in names:
            row = profile(name, backbone, classes, height, width, latency)
            rows.append(row)
            if name == "fenet":
                for flow in ("df", "sf"):
                    cost = row.parts[flow]
                    alone = Row(flow, backbone, cost.params_m, cost.gflops)
                    rows.append(_beside_the_paper(alone, classes, height, width))
    return rows


def table(rows: list[Row], with_parts: bool, latency: bool) -> str:
    """Aligned text: figure, the paper's figure, difference in percent."""
    head = ["backbone", "network", "params M", "paper", "diff %", "GFLOPs", "paper", "diff %"]
    lines = [[*head, "ms", "peak MiB"] if latency else head]
    for row in rows:
        line = [
            row.backbone,
            row.name,
            *_beside(row.params_m, row.paper_params_m),
            *_beside(row.gflops, row.paper_gflops),
        ]
        if latency:
            line += [_number(row.latency_ms, 1), _number(row.memory_mib, 0)]
        lines.append(line)
        if with_parts:
            for part, cost in row.parts.items():
                figures = [_number(cost.params_m, 3), "", "", _number(cost.gflops, 2), "", ""]
                lines.append(["", f"  {part}", *figures, *[""] * (len(line) - 8)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _beside(measured: float, paper: float | None) -> list[str]:
    if paper is None:
        return [_number(measured, 3), "", ""]
    return [_number(measured, 3), _number(paper, 1), f"{100 * (measured / paper - 1):+.2f}"]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _size(text: str) -> tuple[int, int]:
    """Height and width from `N` or `HEIGHTxWIDTH`."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give 1024, or 1024x2048")
    return int(match[1]), int(match[2] or match[1])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of classes: give 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m models.profile") -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Parameters and multiply-adds (GFLOPs, as the paper counts them) of the "
        "paper's networks for one image, without auxiliary heads, beside its Tables 2 and 3(a).",
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help=f"of {', '.join(CONFIGURATIONS)}; all if none is given",
    )
    parser.add_argument(
        "--backbone",
        action="append",
        choices=[*sorted(BACKBONES), "all"],
        metavar="NAME",
        help=f"of {', '.join(sorted(BACKBONES))}, or all; may be given several times; "
        "default: resnet101 and resnet18, for which the paper gives figures",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=(1024, 1024),
        metavar="N|HxW",
        help="of the image; default 1024",
    )
    parser.add_argument("--classes", type=_positive, default=19, metavar="N", help="default 19")
    parser.add_argument("--parts", action="store_true", help="break every network down")
    parser.add_argument(
        "--latency",
        action="store_true",
        help="run each network on one image here: milliseconds, peak memory",
    )
    parser.add_argument("--json", action="store_true", help="a list of objects, parts included")
    options = parser.parse_args(arguments)
    for name in options.networks:
        if name not in CONFIGURATIONS:
            parser.error(f"no network {name!r}; there are {', '.join(CONFIGURATIONS)}")

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
        print(f"latency: batch of one, float32, channels-last, on {device_at_hand()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
