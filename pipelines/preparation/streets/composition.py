"""Sample a random scene: its objects, its light and its camera."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from pipelines.preparation.streets.scene import (
    Building,
    Camera,
    Color,
    Kind,
    Light,
    Scene,
    Sensor,
    Street,
    Thing,
)


def compose_scene(seed: int, index: int) -> Scene:
    """Return scene `index` of `seed`."""
    rng = np.random.default_rng([seed, index])
    light = _light(rng)
    street = _street(rng)
    camera = Camera(
        x=rng.uniform(0.15, 0.6) * street.half_width,
        height=rng.uniform(1.2, 1.9),
        yaw=rng.normal(0, 0.05),
        horizon=rng.uniform(0.40, 0.52),
        focal=rng.uniform(0.62, 1.0),
    )
    buildings = _row(rng, street, -1) + _row(rng, street, 1)
    things = _things(rng, street, camera)
    sensor = Sensor(
        exposure=rng.uniform(0.85, 1.35),
        balance=tuple(rng.normal(1, 0.05, 3).tolist()),
        contrast=rng.uniform(0.85, 1.15),
        blur=max(0.0, rng.normal(0.0012, 0.0012)),
        noise=rng.uniform(0.004, 0.015),
        vignette=rng.uniform(0.0, 0.45),
        hood=rng.uniform(0.05, 0.13) if rng.random() < 0.4 else 0.0,
        border=rng.uniform(0.008, 0.03) if rng.random() < 0.25 else 0.0,
        seed=int(rng.integers(1 << 31)),
    )
    skyline = (rng.uniform(0.0, 18.0), rng.random())
    return Scene(camera, light, street, tuple(buildings), tuple(things), skyline, sensor)


def _light(rng: np.random.Generator) -> Light:
    overcast = rng.random() < 0.35
    elevation = rng.uniform(0.12, 1.1)
    azimuth = rng.uniform(0, 2 * np.pi)
    warm = np.exp(-elevation * 3.0)
    direct = np.array([1.0, 0.95 - 0.35 * warm, 0.88 - 0.6 * warm])
    direct *= 0.12 if overcast else rng.uniform(0.9, 1.5)
    ambient = np.array([0.52, 0.56, 0.62]) * rng.uniform(0.8, 1.1) * (1.4 if overcast else 0.8)
    gray = rng.uniform(0.6, 0.9)
    if overcast:
        zenith, horizon = np.full(3, gray), np.full(3, gray * rng.uniform(0.95, 1.15))
    else:
        zenith = np.array([0.30, 0.48, 0.80]) * rng.uniform(0.7, 1.15)
        horizon = np.array([0.78 + 0.2 * warm, 0.82 - 0.1 * warm, 0.90 - 0.35 * warm])
    dusk = rng.uniform(0.5, 0.8) if rng.random() < 0.1 else 1.0
    return Light(
        sun=(
            float(np.cos(elevation) * np.sin(azimuth)),
            float(np.sin(elevation)),
            float(np.cos(elevation) * np.cos(azimuth)),
        ),
        direct=_color(direct * dusk),
        ambient=_color(ambient * dusk),
        zenith=_color(zenith * dusk),
        horizon=_color(horizon * dusk),
        haze=float(rng.choice([0.001, 0.003, 0.006, 0.014])) * rng.uniform(0.7, 1.3),
        clouds=rng.uniform(0.0, 1.0),
        cloud_shift=rng.uniform(0, 10),
    )


def _street(rng: np.random.Generator) -> Street:
    lanes = int(rng.integers(2, 5))
    asphalt = rng.uniform(0.14, 0.28) * (1 + rng.normal(0, 0.03, 3))
    if rng.random() < 0.3:  # red or yellow bricks
        pavement = np.array([0.50, 0.36, 0.29]) * rng.uniform(0.7, 1.2)
    else:  # slabs, lighter than the road
        pavement = np.full(3, rng.uniform(0.42, 0.66)) * (1 + rng.normal(0, 0.04, 3))
    green = rng.random() < 0.45
    verge = np.array([0.26, 0.36, 0.15]) * rng.uniform(0.7, 1.3) if green else pavement * 0.92
    side = rng.uniform(12, 45)
    return Street(
        half_width=lanes * rng.uniform(1.6, 2.0) + rng.uniform(0, 1.5),
        sidewalk=rng.uniform(3.0, 5.5),
        lanes=lanes,
        road=_color(asphalt),
        pavement=_color(pavement),
        paving=rng.uniform(0.3, 1.2),
        verge=_color(verge),
        verge_green=green,
        wear=rng.uniform(0.03, 0.14),
        markings=rng.uniform(0.1, 1.0),
        crossing=rng.uniform(7, 30) if rng.random() < 0.3 else None,
        side_street=(side, side + rng.uniform(7, 11)) if rng.random() < 0.4 else None,
        shift=rng.uniform(0, 100),
    )


WALLS: tuple[Color, ...] = (
    (0.72, 0.66, 0.54),
    (0.62, 0.60, 0.57),
    (0.80, 0.77, 0.70),
    (0.55, 0.33, 0.25),
    (0.46, 0.38, 0.33),
    (0.66, 0.52, 0.38),
    (0.45, 0.47, 0.50),
    (0.70, 0.58, 0.52),
    (0.52, 0.56, 0.48),
    (0.36, 0.40, 0.46),
)


def _row(rng: np.random.Generator, street: Street, side: int) -> list[Building]:
    """Return the buildings along one side, from behind the camera into the distance.

    side: -1 for left, 1 for right.
    """
    buildings: list[Building] = []
    front = street.half_width + street.sidewalk + rng.choice([0.0, 0.0, rng.uniform(1.5, 7)])
    density = rng.uniform(0.55, 1.0)
    z = rng.uniform(-15, -5)
    tall = rng.choice([7.0, 12.0, 18.0, 30.0])
    while z < 110:
        length = rng.uniform(7, 28)
        gap = street.side_street
        if gap is not None and z < gap[1] and z + length > gap[0]:
            if gap[0] - z > 5:
                length = gap[0] - z
            else:
                z = gap[1]
                continue
        if rng.random() < density:
            near = front + (rng.uniform(0, 3) if rng.random() < 0.3 else 0.0)
            near_x, far_x = side * near, side * (near + rng.uniform(8, 14))
            bounds = (min(near_x, far_x), max(near_x, far_x))
            buildings.append(_building(rng, bounds, (z, z + length), tall))
        z += length + (rng.uniform(2, 10) if rng.random() < 0.25 else 0.0)
    return buildings


def _building(
    rng: np.random.Generator, x: tuple[float, float], z: tuple[float, float], tall: float
) -> Building:
    wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.7, 1.2, 1)
    wall = wall * (1 + rng.normal(0, 0.06, 3))
    surface: Literal["plaster", "brick", "panels", "curtain"] = rng.choice(
        ["plaster", "plaster", "brick", "panels", "curtain"]
    ).item()
    curtain = surface == "curtain"
    house = tall < 8 and rng.random() < 0.8
    return Building(
        *x,
        *z,
        height=max(3.5, tall * rng.uniform(0.6, 1.4)),
        wall=_color(wall),
        trim=_color(wall * rng.uniform(0.65, 1.35)),
        glass=_color(np.array([0.16, 0.19, 0.23]) * rng.uniform(0.5, 2.2)),
        roof=_color(
            np.array([[0.42, 0.24, 0.18], [0.25, 0.25, 0.28]][rng.integers(2)])
            * rng.uniform(0.8, 1.3)
        ),
        roof_height=rng.uniform(1.5, 3.5) if house or rng.random() < 0.3 else 0.4,
        floor=rng.uniform(2.8, 3.8),
        bay=rng.uniform(1.2, 2.2) if curtain else rng.uniform(1.7, 4.2),
        window=(0.92, 0.85) if curtain else (rng.uniform(0.3, 0.75), rng.uniform(0.35, 0.65)),
        surface=surface,
        contrast=rng.uniform(0.25, 1.0),
        shop=rng.uniform(3.0, 4.2) if rng.random() < 0.45 else 0.0,
        lit=rng.uniform(0.0, 0.3),
        ivy=rng.uniform(0.3, 0.8) if rng.random() < 0.08 else 0.0,
        seed=int(rng.integers(1 << 30)),
    )


CARS: tuple[Color, ...] = (
    (0.06, 0.06, 0.07),
    (0.55, 0.56, 0.58),
    (0.75, 0.75, 0.74),
    (0.28, 0.29, 0.31),
    (0.45, 0.07, 0.06),
    (0.08, 0.13, 0.30),
    (0.12, 0.20, 0.14),
    (0.52, 0.45, 0.33),
)
CLOTHES: tuple[Color, ...] = (
    (0.85, 0.45, 0.08),
    (0.80, 0.80, 0.12),
    (0.70, 0.12, 0.35),
    (0.35, 0.15, 0.60),
)
FENCES: tuple[Color, ...] = ((0.46, 0.26, 0.10), (0.30, 0.16, 0.08), (0.62, 0.44, 0.24))
PAINTS: tuple[Color, ...] = ((0.75, 0.08, 0.08), (0.08, 0.22, 0.60), (0.82, 0.68, 0.10))


def _things(rng: np.random.Generator, street: Street, camera: Camera) -> list[Thing]:
    """Return the objects of a scene.

    Poles, signs, fences and people are thicker, nearer and more colorful than in a real street, so
    that they are several pixels wide in an image of 256 x 128 pixels.
    """
    things: list[Thing] = []

    def add(
        kind: Kind,
        x: float,
        z: float,
        height: float,
        width: float,
        color: np.ndarray | Color,
        second: np.ndarray | Color = (0.5, 0.5, 0.5),
    ) -> None:
        gap = street.side_street
        if z < 2.5 or (gap and gap[0] < z < gap[1] and abs(x) > street.half_width):
            return
        shape, own = int(rng.integers(4)), int(rng.integers(1 << 30))
        things.append(Thing(kind, x, z, height, width, _color(color), _color(second), shape, own))

    edge, walk = street.half_width, street.sidewalk

    def metal_color() -> np.ndarray:
        return rng.uniform(0.04, 0.16) * np.array([1.0, 1.02, 1.03])

    for side in (-1, 1):
        # A row of trees, or none; hedges along the buildings.
        if rng.random() < 0.65:
            spacing, z = rng.uniform(6, 16), rng.uniform(2, 14)
            conifer = rng.random() < 0.2
            hue = _foliage(rng)
            inside = rng.random() < 0.5
            while z < 80:
                x = side * (edge + (0.7 if inside else walk + rng.uniform(0.5, 2)))
                green = hue * rng.uniform(0.8, 1.2)
                add(
                    "conifer" if conifer else "tree",
                    x,
                    z,
                    rng.uniform(4.5, 12),
                    rng.uniform(2.4, 6.5) * (0.6 if conifer else 1),
                    green,
                    (0.24, 0.18, 0.13),
                )
                z += spacing * rng.uniform(0.7, 1.6)
        for _ in range(int(rng.poisson(2.0))):
            x = side * (edge + walk + rng.uniform(0.0, 1.5))
            add(
                "bush",
                x,
                rng.uniform(4, 60),
                rng.uniform(0.7, 2.2),
                rng.uniform(1, 5),
                _foliage(rng),
            )
        if rng.random() < 0.75:
            start = rng.uniform(3, 15)
            add(
                "fence",
                side * (edge + rng.choice([0.25, walk])),
                start,
                rng.uniform(1.2, 2.0),
                rng.uniform(10, 35),
                np.array(FENCES[rng.integers(len(FENCES))]) * rng.uniform(0.8, 1.2),
            )
        # Street lamps and poles at the curb.
        spacing, z = rng.uniform(14, 30), rng.uniform(3, 20)
        metal, height, width = metal_color(), rng.uniform(5, 8.5), rng.uniform(0.3, 0.45)
        while z < 40:
            add("lamp", side * (edge + 0.4), z, height, width, metal)
            z += spacing
        for _ in range(int(rng.poisson(2.2))):
            add(
                "pole",
                side * (edge + rng.uniform(0.2, walk)),
                rng.uniform(4, 28),
                rng.choice([0.9, 1.0, 3.0, 6.5]),
                rng.uniform(0.25, 0.5),
                metal_color(),
            )
        for _ in range(int(rng.poisson(2.0))):
            paint = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.6, 1.1)
            add(
                "sign",
                side * (edge + rng.uniform(0.2, 1.2)),
                rng.uniform(5, 28),
                rng.uniform(2.6, 3.6),
                rng.uniform(1.3, 2.2),
                paint,
                metal_color(),
            )
        for _ in range(int(rng.poisson(1.0))):
            add(
                "bin",
                side * (edge + rng.uniform(0.4, walk)),
                rng.uniform(5, 35),
                rng.uniform(0.8, 1.4),
                rng.uniform(0.6, 1.2),
                rng.uniform(0.1, 0.5, 3),
            )
        # Parked cars.
        if rng.random() < 0.7:
            z = rng.uniform(3, 16)
            while z < 60:
                if rng.random() < 0.75:
                    _car(rng, add, side * (edge - 1.1), z)
                z += rng.uniform(5.2, 8)
    # Traffic: ahead in the camera's lane, and oncoming.
    for x, probability in ((camera.x, 0.6), (-camera.x, 0.7)):
        if rng.random() < probability:
            _car(rng, add, x + rng.normal(0, 0.2), rng.uniform(9, 55))
    for _ in range(int(rng.poisson(6.0))):
        side = rng.choice([-1, 1])
        across = rng.random() < 0.12
        x = rng.uniform(-edge, edge) if across else side * (edge + rng.uniform(0.4, walk - 0.3))
        clothes = np.array(CLOTHES[rng.integers(len(CLOTHES))]) * rng.uniform(0.7, 1.2)
        add(
            "person",
            x,
            4 + 20 * rng.random() ** 1.3,
            rng.choice([rng.uniform(1.7, 2.1), 1.3], p=[0.88, 0.12]),
            0.5,
            clothes,
            rng.uniform(0.04, 0.35) * np.array([0.9, 0.95, 1.1]),
        )
    return things


class _Add(Protocol):
    def __call__(
        self, kind: Kind, x: float, z: float, height: float, width: float, color: np.ndarray
    ) -> None: ...


def _car(rng: np.random.Generator, add: _Add, x: float, z: float) -> None:
    van = rng.random() < 0.15
    paint = np.array(CARS[rng.integers(len(CARS))]) * rng.uniform(0.8, 1.25)
    height, length = (rng.uniform(2.0, 2.6), 5.2) if van else (rng.uniform(1.4, 1.75), 4.3)
    add("car", x, z, height, length * rng.uniform(0.93, 1.07), paint)


def _foliage(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.15:  # autumn
        return np.array([0.46, 0.30, 0.10]) * rng.uniform(0.7, 1.1)
    return np.array([0.20, 0.29, 0.10]) * rng.uniform(0.55, 1.3) * (1 + rng.normal(0, 0.08, 3))


def _color(values: np.ndarray | Color) -> Color:
    red, green, blue = (float(value) for value in np.clip(values, 0.0, 1.3))
    return red, green, blue
