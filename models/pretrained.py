"""Published weights for a backbone: recognised by their keys, converted, and reported in full."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones import BACKBONES, Backbone, Layout, build_backbone

#: Under these keys training programs keep the weights beside other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")

_OWN = Layout("this package", (), {})


class PretrainedError(ValueError):
    """Weights that do not belong to the backbone; the message says what to change."""


@dataclass(frozen=True)
class PretrainedReport:
    """What became of a checkpoint.

    Attributes:
        layout: whose naming it was recognised as.
        loaded: tensors of the backbone, each with the checkpoint's key that it came from.
        unused: keys of the checkpoint that were not loaded, each with the reason.
        missing: tensors of the backbone that kept their initial values, each with the reason.
        note: what differs in meaning although the shapes agree; often empty.
    """

    layout: str
    loaded: dict[str, str]
    unused: dict[str, str]
    missing: dict[str, str]
    note: str

    def __str__(self) -> str:
        lines = [
            f"layout: {self.layout}",
            f"loaded: {len(self.loaded)} tensors",
            f"unused: {len(self.unused)} keys of the checkpoint",
            *(f"  {key}: {reason}" for key, reason in self.unused.items()),
            f"missing: {len(self.missing)} tensors of the backbone",
            *(f"  {name}: {reason}" for name, reason in self.missing.items()),
        ]
        return "\n".join([*lines, f"note: {self.note}"] if self.note else lines)


def load_pretrained(backbone: Backbone, checkpoint: Mapping[str, object]) -> PretrainedReport:
    """Load a checkpoint into `backbone`, whichever of the backbone's layouts it is in.

    Prefixes such as `module.` or `backbone.`, wrappings such as `{"state_dict": ...}` and layers
    that a backbone does not have (`fc`, decode heads) are recognised. Values take the backbone's
    dtype. What the checkpoint merely lacks keeps its initial value and is reported as missing.

    Raises:
        PretrainedError: nothing fits, the stem differs, or the checkpoint is of another depth or
            width; the message names the options with which it would fit, where there are any. The
            backbone is then unchanged.
    """
    # Optimizers number their states; such keys name nothing of a backbone.
    state = {str(key): value for key, value in unwrap(checkpoint).items()}
    match = _match(backbone, state)
    if not match.complete:
        options = _fitting_options(state)
        if options:
            raise PretrainedError(
                f"the checkpoint fits {options}, the model is {_described(backbone)}: "
                f"set {options}, or take other weights"
            )
    if not match.fits:
        raise PretrainedError(_explain(backbone, state, match))
    with torch.no_grad():
        for name, target in backbone.state_dict().items():
            if name in match.sources:
                target.copy_(match.values[name])
    return PretrainedReport(
        match.layout.name, match.sources, match.unused, match.missing, match.layout.note
    )


@dataclass(frozen=True)
class _Match:
    """A checkpoint held against a backbone.

    `sources` and `values` are what fits, by the backbone's names; `conflicts` the checkpoint's keys
    that contradict the backbone, because a shape differs or the backbone lacks the layer.
    """

    layout: Layout
    sources: dict[str, str]
    values: dict[str, Tensor]
    unused: dict[str, str]
    missing: dict[str, str]
    conflicts: dict[str, str]

    @property
    def fits(self) -> bool:
        stem_missing = any(name.startswith("stem.") for name in self.missing)
        return bool(self.sources) and not self.conflicts and not stem_missing

    @property
    def complete(self) -> bool:
        return self.fits and not self.missing


def unwrap(checkpoint: Mapping[str, object]) -> Mapping[str, object]:
    """The innermost mapping that holds the weights."""
    for wrapper in _WRAPPERS:
        inner = checkpoint.get(wrapper)
        if isinstance(inner, Mapping):
            return unwrap(inner)
    return checkpoint


def _match(backbone: Backbone, state: Mapping[str, object]) -> _Match:
    native = backbone.state_dict()
    modules = {name for name, _ in backbone.named_children()}
    prefix = _prefix(state, native)
    layout = _layout(backbone, {key.removeprefix(prefix) for key in state})

    sources: dict[str, str] = {}
    values: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for key, value in state.items():
        name = _rename(key.removeprefix(prefix), layout)
        if not key.startswith(prefix):
            unused[key] = f"outside {prefix.rstrip('.')}"
        elif not isinstance(value, Tensor):
            unused[key] = f"not a tensor but {type(value).__name__}"
        elif name in native and value.shape == native[name].shape:
            sources[name], values[name] = key, value
        elif name in native:
            theirs, ours = tuple(value.shape), tuple(native[name].shape)
            conflicts[key] = f"{name} is {theirs} in the checkpoint, {ours} in the model"
        elif name.split(".")[0] in modules:
            conflicts[key] = f"the model has no {name}"
        else:
            unused[key] = "no part of the backbone"
    missing = {
        name: "not in the checkpoint"
        for name in native
        if name not in sources and not name.endswith("num_batches_tracked")
    }
    return _Match(layout, sources, values, unused, missing, conflicts)


def _prefix(state: Mapping[str, object], native: Mapping[str, Tensor]) -> str:
    """What stands before the backbone's own names in most of the checkpoint's keys."""
    votes: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts) - 1):
            if ".".join(parts[cut:]) in native:
                votes["".join(f"{part}." for part in parts[:cut])] += 1
                break
    return votes.most_common(1)[0][0] if votes else ""


def _layout(backbone: Backbone, keys: set[str]) -> Layout:
    for layout in backbone.layouts:
        if keys.issuperset(layout.signature):
            return layout
    return _OWN


def _rename(key: str, layout: Layout) -> str:
    for pattern, replacement in layout.renames.items():
        renamed, count = re.subn(pattern, replacement, key, count=1)
        if count:
            return renamed
    return key


def _fitting_options(state: Mapping[str, object]) -> str | None:
    """The options of a backbone that the checkpoint fits completely, if there is one."""
    for name, cls in BACKBONES.items():
        for stem in cls.stems or (None,):
            with torch.device("meta"):
                candidate = build_backbone(name, stem, dilation=False)
            if _match(candidate, state).complete:
                return candidate.built_as
    return None


def _described(backbone: Backbone) -> str:
    return backbone.built_as or type(backbone).__name__


def _explain(backbone: Backbone, state: Mapping[str, object], match: _Match) -> str:
    """Why a checkpoint that fits no other options does not fit these."""
    model = f"the model ({_described(backbone)})"
    if not match.sources:
        first = ", ".join(list(state)[:3]) or "none"
        known = ", ".join(layout.name for layout in (*backbone.layouts, _OWN))
        return (
            f"nothing in the checkpoint fits {model}: "
            f"its {len(state)} keys ({first}, ...) are in none of the layouts {known}"
        )
    problems = [*match.conflicts.values(), *(f"{name} is missing" for name in match.missing)]
    listed = "; ".join(problems[:4]) + ("; ..." if len(problems) > 4 else "")
    if backbone.stems and any("stem." in problem for problem in problems):
        listed += f" (stem can be {', '.join(backbone.stems)})"
    return f"the checkpoint does not fit {model}: {listed}"
