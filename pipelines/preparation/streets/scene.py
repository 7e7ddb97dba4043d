"""What stands in a street: a description in metres, drawn at random, free of any image size.

World coordinates: x to the right of the road's middle, y up, z ahead of the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Color = tuple[float, float, float]
Kind = Literal["tree", "conifer", "bush", "car", "person", "pole", "lamp", "sign", "fence", "bin"]


@dataclass(frozen=True)
class Camera:
    """A camera at (x, height, 0); `horizon` and `focal` as fractions of image height and width."""

    x: float
    height: float
    yaw: float
    horizon: float
    focal: float


@dataclass(frozen=True)
class Light:
    """`sun` points to the sun; `ambient`, `direct` are colours; `haze` is extinction a metre."""

    sun: Color
    direct: Color
    ambient: Color
    zenith: Color
    horizon: Color
    haze: float
    clouds: float
    cloud_shift: float


@dataclass(frozen=True)
class Street:
    """The ground: half the road's width, sidewalks of `sidewalk` metres, then `verge`.

    `crossing`, `side_street`: where a zebra crossing and a side street lie ahead, None without.
    """

    half_width: float
    sidewalk: float
    lanes: int
    road: Color
    pavement: Color
    paving: float
    verge: Color
    verge_green: bool
    wear: float
    markings: float
    crossing: float | None
    side_street: tuple[float, float] | None
    shift: float


@dataclass(frozen=True)
class Building:
    """A box with a facade of `floor` x `bay` metres, windows taking a share of each."""

    x0: float
    x1: float
    z0: float
    z1: float
    height: float
    wall: Color
    trim: Color
    glass: Color
    roof: Color
    roof_height: float
    floor: float
    bay: float
    window: tuple[float, float]
    surface: Literal["plaster", "brick", "panels", "curtain"]
    contrast: float
    shop: float
    lit: float
    ivy: float
    seed: int


@dataclass(frozen=True)
class Thing:
    """Anything that stands on the ground at (x, z): height and width (cars: length) in metres."""

    kind: Kind
    x: float
    z: float
    height: float
    width: float
    color: Color
    second: Color
    shape: int
    seed: int


@dataclass(frozen=True)
class Sensor:
    """How the picture is taken; blur as a fraction of the image's width, hood and border too."""

    exposure: float
    balance: Color
    contrast: float
    blur: float
    noise: float
    vignette: float
    hood: float
    border: float
    seed: int


@dataclass(frozen=True)
class Scene:
    camera: Camera
    light: Light
    street: Street
    buildings: tuple[Building, ...]
    things: tuple[Thing, ...]
    skyline: tuple[float, float]
    sensor: Sensor
