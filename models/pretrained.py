"""Loads published backbone weights: detects their layout, renames their keys, reports the rest."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones import BACKBONES, Backbone, WeightLayout, build_backbone
from models.initialization import meta_device

#: Keys under which training programs store the weights within a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")

# Channels of the images that published weights were trained on.
_PUBLISHED_CHANNELS = 3

_NATIVE_LAYOUT = WeightLayout("this package", (), {})


class PretrainedError(ValueError):
    """The weights do not fit the backbone; the message says what to change."""


@dataclass(frozen=True)
class PretrainedReport:
    """Which tensors of a checkpoint were loaded into a backbone.

    Attributes:
        layout: name of the detected layout.
        loaded: the checkpoint's key for each loaded tensor of the backbone.
        unused: the reason for each key of the checkpoint that was not loaded.
        missing: the reason for each tensor of the backbone that kept its initial values.
        note: any difference in meaning where the shapes agree; often empty.
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
    """Load a checkpoint in any of the backbone's layouts into `backbone`.

    Accepts prefixes such as `module.` or `backbone.`, wrappers such as `{"state_dict": ...}`, and
    layers that do not belong to a backbone (`fc`, decode heads). Values are cast to the backbone's
    dtype. Tensors that the checkpoint lacks keep their initial values and are reported as missing.
    Filters of RGB images are adapted to the backbone's number of channels (see `adapt_filters`).

    Raises:
        PretrainedError: no key fits, or the stem, depth or width differs. The message names the
            options that the checkpoint would fit, if any. The backbone is then unchanged.
    """
    # Optimizer states have integer keys.
    state = {str(key): value for key, value in unwrap(checkpoint).items()}
    match = _match(backbone, state)
    if not match.complete:
        options = _fitting_options(state)
        if options:
            raise PretrainedError(
                f"the checkpoint fits {options}, but the model is {_describe(backbone)}; "
                f"set {options}, or use other weights"
            )
    if not match.fits:
        raise PretrainedError(_mismatch_message(backbone, state, match))
    adapted = []
    with torch.no_grad():
        for name, target in backbone.state_dict().items():
            if name not in match.sources:
                continue
            value = match.values[name]
            if value.shape != target.shape:
                value = adapt_filters(value, backbone.in_channels)
                adapted.append(name)
            target.copy_(value)
    notes = [match.layout.note, *(adaptation_note(each, backbone.in_channels) for each in adapted)]
    note = "; ".join(filter(None, notes))
    return PretrainedReport(match.layout.name, match.sources, match.unused, match.missing, note)


def adapt_filters(filters: Tensor, channels: int) -> Tensor:
    """Return the filters of a convolution of RGB images, `(out, 3, height, width)`, for images of
    another number of channels.

    One channel gets the sum of the three filters. Otherwise they are repeated in order, as often as
    needed, times 3 / channels, so that similar channels give values of the same size as before.
    Source: the same rule as `timm` and `segmentation_models_pytorch`.
    """
    if channels == 1:
        return filters.sum(dim=1, keepdim=True)
    repeated = filters.repeat(1, -(-channels // _PUBLISHED_CHANNELS), 1, 1)[:, :channels]
    return repeated * (_PUBLISHED_CHANNELS / channels)


def adaptable(stored: Sequence[int], expected: Sequence[int], channels: int) -> bool:
    """Whether a tensor of shape `stored` holds filters of RGB images that `adapt_filters` gives the
    shape `expected`, for images of `channels`."""
    return (
        len(stored) == 4
        and channels != _PUBLISHED_CHANNELS
        and (stored[1], expected[1]) == (_PUBLISHED_CHANNELS, channels)
        and (stored[0], *stored[2:]) == (expected[0], *expected[2:])
    )


def adaptation_note(name: str, channels: int) -> str:
    """Return a sentence about adapted filters, for a report."""
    rule = (
        "their sum"
        if channels == 1
        else f"repeated in order, times {_PUBLISHED_CHANNELS}/{channels}"
    )
    count = "1 channel" if channels == 1 else f"{channels} channels"
    return f"{name}: RGB filters adapted to {count} ({rule})"


@dataclass(frozen=True)
class _Match:
    """A comparison of a checkpoint with a backbone.

    Attributes:
        sources, values: the checkpoint's key and tensor for each matching tensor of the backbone.
        unused, missing: see `PretrainedReport`.
        conflicts: the problem with each key that belongs to the backbone but has another shape, or
            names a layer that the backbone lacks.
    """

    layout: WeightLayout
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
    """Return the innermost mapping, which holds the weights."""
    for wrapper in _WRAPPERS:
        inner = checkpoint.get(wrapper)
        if isinstance(inner, Mapping):
            return unwrap(inner)
    return checkpoint


def _match(backbone: Backbone, state: Mapping[str, object]) -> _Match:
    native = backbone.state_dict()
    modules = {name for name, _ in backbone.named_children()}
    prefix = _common_prefix(state, native, backbone.layouts)
    layout = _detect_layout(backbone, {key.removeprefix(prefix) for key in state})

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
        elif name in native and (
            value.shape == native[name].shape
            or adaptable(value.shape, native[name].shape, backbone.in_channels)
        ):
            sources[name], values[name] = key, value
        elif name in native:
            stored, expected = tuple(value.shape), tuple(native[name].shape)
            conflicts[key] = f"{name} is {stored} in the checkpoint, {expected} in the model"
        elif name.split(".")[0] in modules:
            conflicts[key] = f"the model has no {name}"
        else:
            unused[key] = "not part of the backbone"
    missing = {
        name: "not in the checkpoint"
        for name in native
        if name not in sources and not name.endswith("num_batches_tracked")
    }
    return _Match(layout, sources, values, unused, missing, conflicts)


def _common_prefix(
    state: Mapping[str, object], native: Mapping[str, Tensor], layouts: Sequence[WeightLayout]
) -> str:
    """Return the prefix that most of the checkpoint's keys put before the backbone's names, or, if
    none has these, before the names of one of the layouts."""
    for layout in (_NATIVE_LAYOUT, *layouts):
        prefixes: Counter[str] = Counter()
        for key in state:
            parts = key.split(".")
            for cut in range(len(parts) - 1):
                if _rename(".".join(parts[cut:]), layout) in native:
                    prefixes["".join(f"{part}." for part in parts[:cut])] += 1
                    break
        if prefixes:
            return prefixes.most_common(1)[0][0]
    return ""


def _detect_layout(backbone: Backbone, keys: set[str]) -> WeightLayout:
    for layout in backbone.layouts:
        if keys.issuperset(layout.signature):
            return layout
    return _NATIVE_LAYOUT


def _rename(key: str, layout: WeightLayout) -> str:
    for pattern, replacement in layout.renames.items():
        renamed, count = re.subn(pattern, replacement, key, count=1)
        if count:
            return renamed
    return key


def _fitting_options(state: Mapping[str, object]) -> str | None:
    """Return the options of the first backbone that the checkpoint fits completely, or None."""
    for name, cls in BACKBONES.items():
        for stem in cls.stems or (None,):
            with meta_device():
                candidate = build_backbone(name, stem, dilation=False)
            if _match(candidate, state).complete:
                return candidate.built_as
    return None


def _describe(backbone: Backbone) -> str:
    return backbone.built_as or type(backbone).__name__


def _mismatch_message(backbone: Backbone, state: Mapping[str, object], match: _Match) -> str:
    """Say why a checkpoint that fits no registered backbone does not fit this one."""
    model = f"the model ({_describe(backbone)})"
    if not match.sources:
        first_keys = ", ".join(list(state)[:3]) or "none"
        layouts = ", ".join(layout.name for layout in (*backbone.layouts, _NATIVE_LAYOUT))
        return (
            f"nothing in the checkpoint fits {model}: "
            f"its {len(state)} keys ({first_keys}, ...) match none of the layouts {layouts}"
        )
    problems = [*match.conflicts.values(), *(f"{name} is missing" for name in match.missing)]
    shown = "; ".join(problems[:4]) + ("; ..." if len(problems) > 4 else "")
    if backbone.stems and any("stem." in problem for problem in problems):
        shown += f" (stem can be {', '.join(backbone.stems)})"
    return f"the checkpoint does not fit {model}: {shown}"
