"""The description of a scene in meters, independent of the image size.

World coordinates: x to the right of the road's center line, y up, z ahead of the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Color = tuple[float, float, float]
Kind = Literal["tree", "conifer", "bush", "car", "person", "pole", "lamp", "sign", "fence", "bin"]


@dataclass(frozen=True)
class Camera:
    """A camera at (x, height, 0), turned by `yaw` radians.

    horizon: row of the horizon as a fraction of the image height.
    focal: focal length as a fraction of the image width.
    """

    x: float
    height: float
    yaw: float
    horizon: float
    focal: float


@dataclass(frozen=True)
class Light:
    """The light and the sky.

    sun: unit vector that points to the sun.
    direct, ambient: colors of sunlight and of light from the sky.
    zenith, horizon: colors of the sky.
    haze: extinction per meter.
    clouds: cloud cover, 0 to 1. cloud_shift: selects a part of the cloud texture.
    """

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
    """The ground: a road, sidewalks on both sides, and a verge beyond them.

    half_width: half of the road's width. sidewalk: width of a sidewalk.
    road, pavement, verge: colors. paving: size of a slab of the sidewalk.
    wear, markings: strength of the road's texture and of its markings.
    crossing: z of a zebra crossing; None without one.
    side_street: z range of a side street; None without one.
    shift: offset that varies the textures between scenes.
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
    """A box with a facade divided into cells of `bay` x `floor` meters with a window each.

    window: the window's share of a cell's width and height.
    contrast: visibility of windows and ledges. shop: height of a shop front, 0 without one.
    lit: share of windows that are lit. ivy: how much of the wall ivy covers.
    """

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
    """An object on the ground at (x, z).

    width: in meters; the length of cars and fences.
    second: color of the second part, such as a trunk or trousers.
    shape: 0 to 3, selects a variant.
    """

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
    """The camera's imaging: blur as a fraction of image width, hood and border of image height."""

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
    """Everything that is rendered. skyline: its height in meters, and whether it is wooded (< 0.5)
    or built up."""

    camera: Camera
    light: Light
    street: Street
    buildings: tuple[Building, ...]
    things: tuple[Thing, ...]
    skyline: tuple[float, float]
    sensor: Sensor
