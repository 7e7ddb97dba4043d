"""Configurations are read without torch, so they hold what they need to know of networks."""

import subprocess
import sys
from dataclasses import fields

from models.backbones import BACKBONES, backbone_class
from models.config import BUILT_IN_BACKBONES, BuiltInBackbone, FENetConfig, fem_kinds
from models.registry import FEM_KINDS


def test_built_in_backbones_are_the_registered_classes() -> None:
    own = {name for name, cls in BACKBONES.items() if cls.__module__.startswith("models.")}
    assert own == BUILT_IN_BACKBONES.keys()
    for name, traits in BUILT_IN_BACKBONES.items():
        for entry in fields(BuiltInBackbone):
            attribute = getattr(backbone_class(name), entry.name)
            assert attribute == getattr(traits, entry.name), (name, entry.name)


def test_built_in_fem_kinds_are_the_registered_classes() -> None:
    own = {name for name, cls in FEM_KINDS.items() if cls.__module__.startswith("models.")}
    assert own <= set(fem_kinds())
    assert all(FENetConfig(flows=(kind,)).flows == (kind,) for kind in own)


def test_experiment_is_read_without_torch() -> None:
    code = (
        "import sys; from pipelines.training.experiment import Experiment; Experiment();"
        "assert not {'torch', 'pyarrow', 'kornia'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
