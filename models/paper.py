"""The networks of the paper's tables and the costs that it reports."""

from models.config import FENetConfig

#: The configurations of the paper's tables; DF and SF alone are measured as parts of the last.
CONFIGURATIONS = {
    "baseline": FENetConfig(ppm=False, flows=()),
    "strong": FENetConfig(flows=()),
    "strong+df": FENetConfig(flows=("detail",)),
    "strong+sf": FENetConfig(flows=("semantic",)),
    "fenet": FENetConfig(flows=("detail", "semantic")),
}

#: Tables 2 and 3(a): parameters in millions and multiply-adds in 1e9, 19 classes, 1024 x 1024.
PAPER: dict[tuple[str, str], tuple[float, float | None]] = {
    ("resnet101", "baseline"): (44.2, 239.2),
    ("resnet101", "strong"): (46.6, 239.5),
    ("resnet101", "df"): (8.9, 63.5),
    ("resnet101", "sf"): (8.9, 254.0),
    ("resnet101", "fenet"): (66.0, None),
    ("resnet18", "fenet"): (16.8, None),
}
