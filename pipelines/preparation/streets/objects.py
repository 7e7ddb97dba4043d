"""Paint the objects of a scene: plants, cars, people, poles, signs, fences and bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.preparation.streets.canvas import NEAR, VOID, Canvas
from pipelines.preparation.streets.classes import CAR, FENCE, PERSON, POLE, SIGN, VEGETATION
from pipelines.preparation.streets.scene import Scene, Thing
from pipelines.preparation.streets.texture import Floats, floats, textures

UP = (0.0, 1.0, 0.0)
TOWARD = (0.0, 0.0, -1.0)


def paint_things(canvas: Canvas, scene: Scene) -> None:
    """Paint all objects of the scene, the farthest first."""
    painters = {
        "tree": _tree,
        "conifer": _conifer,
        "bush": _bush,
        "car": _car,
        "person": _person,
        "pole": _pole,
        "lamp": _lamp,
        "sign": _sign,
        "fence": _fence,
        "bin": _bin,
    }
    for thing in sorted(scene.things, key=_far_end, reverse=True):
        if _in_view(canvas, thing):
            painters[thing.kind](canvas, thing)


def _in_view(canvas: Canvas, thing: Thing) -> bool:
    """Whether any part of the object may be visible; its extent is overestimated."""
    reach = thing.width + 1.5
    ends = [(thing.x, 0.0, thing.z - reach), (thing.x, 0.0, thing.z + reach)]
    ahead = canvas.to_camera(np.array(ends))
    half_view = 0.5 * canvas.width / canvas.focal * np.maximum(ahead[:, 2], NEAR)
    return bool(ahead[1, 2] > 0 and (np.abs(ahead[:, 0]) - reach < half_view).any())


def _far_end(thing: Thing) -> float:
    return thing.z + (thing.width / 2 if thing.kind in ("car", "fence") else 0.0)


def _foot(canvas: Canvas, thing: Thing) -> tuple[Floats, float, float] | None:
    """Return the pixel of the object's foot, its distance and the pixels per meter there.

    None if the object is behind the camera or too close.
    """
    ahead = canvas.to_camera(np.array([[thing.x, 0.0, thing.z]]))
    if ahead[0, 2] < 2 * NEAR:
        return None
    return canvas.to_pixels(ahead)[0], float(ahead[0, 2]), float(canvas.focal / ahead[0, 2])


def _tree(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    rng = np.random.default_rng(thing.seed)
    trunk = np.asarray(thing.second, np.float32) * canvas.lit(TOWARD) * 1.1
    fork = base - floats([0, 0.55 * thing.height * scale])
    canvas.capsule(base, fork, (0.12 + 0.02 * thing.height) * scale, trunk, distance, VEGETATION)
    middle = np.array([0.0, 0.66 * thing.height])
    blobs = [
        (
            middle + rng.normal(0, 1, 2) * (0.25 * thing.width, 0.13 * thing.height),
            thing.width * rng.uniform(0.14, 0.34),
        )
        for _ in range(int(rng.integers(9, 18) if distance < 40 else 6))
    ]
    _crown(canvas, thing, base, distance, scale, blobs, "leaves", rng.uniform(0.25, 0.6))


def _bush(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    rng = np.random.default_rng(thing.seed)
    blobs = [
        (
            np.array([rng.uniform(-0.5, 0.5) * thing.width, 0.45 * thing.height]),
            thing.height * rng.uniform(0.4, 0.6),
        )
        for _ in range(6)
    ]
    _crown(canvas, thing, base, distance, scale, blobs, "leaves", rng.uniform(0.1, 0.3))


def _crown(
    canvas: Canvas,
    thing: Thing,
    base: Floats,
    distance: float,
    scale: float,
    blobs: list[tuple[NDArray[np.float64], float]],
    texture: str,
    ragged: float,
) -> None:
    """Paint a crown: a union of disks whose outline a leaf texture makes ragged.

    blobs: center of each disk, in meters right of and above the foot, and its radius.
    """
    reach = max(abs(center[0]) + 1.3 * radius for center, radius in blobs) * scale
    top = max(center[1] + 1.3 * radius for center, radius in blobs) * scale
    region = canvas.region(base[0] - reach, base[1] - top, base[0] + reach, base[1])
    if region is None:
        return
    x, y = (region.x - base[0]) / scale, (base[1] - region.y) / scale
    shape = np.broadcast_shapes(x.shape, y.shape)
    shift = np.float32(thing.seed % 89)
    size = np.full(shape, 1 / scale, np.float32)
    wide_x, wide_y = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
    leaves = textures()[texture](wide_x + shift, wide_y + shift, size)
    fullness = np.full(shape, -1.0, np.float32)
    light = np.zeros(shape, np.float32)
    wobble_x, wobble_y = 0.16 * leaves, 0.16 * leaves[::-1, ::-1]
    # A blob is lit like a sphere.
    sun = canvas.sun
    for center, radius in blobs:
        dx = (x - center[0]) / radius + wobble_x
        dy = (y - center[1]) / radius + wobble_y
        inner = 1 - dx * dx - dy * dy
        front = inner > fullness
        fullness = np.where(front, inner, fullness).astype(np.float32)
        facing = dx * sun[0] + dy * sun[1] - np.sqrt(np.clip(inner, 0, 1)) * sun[2]
        light = np.where(front, facing, light).astype(np.float32)
    hull = fullness + ragged * 0.6 * leaves
    alpha = np.clip(hull * 5 + 0.5, 0, 1)
    shade = 0.55 + 0.35 * np.clip(light, 0, 1) + 0.12 * np.clip(light, -1, 0)
    shade = shade * (1 + 0.5 * np.clip(leaves, -1.6, 2.2)) * (0.8 + 0.2 * np.clip(hull, 0, 1))
    sky = np.asarray(canvas.light.ambient, np.float32)
    direct = np.asarray(canvas.light.direct, np.float32)
    lit = sky * 0.8 + direct * np.clip(0.25 + light, 0, 1)[..., None]
    color = np.asarray(thing.color, np.float32) * np.clip(shade, 0.1, 2)[..., None] * lit * 1.6
    holes = (leaves > 1.7) & (hull < 0.5) & (1 / scale < 0.08)
    canvas.paint(region, alpha * np.where(holes, 0.2, 1), color, distance, VEGETATION, alpha > 0.5)


def _conifer(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    rng = np.random.default_rng(thing.seed)
    canvas.capsule(
        base,
        base - floats([0, 0.3 * thing.height * scale]),
        0.25 * scale,
        np.asarray(thing.second, np.float32) * canvas.lit(TOWARD),
        distance,
        VEGETATION,
    )
    blobs = []
    for step in np.linspace(0.12, 0.95, 9):
        radius = thing.width * 0.55 * (1.02 - step)
        for side in (-0.5, 0.0, 0.5):
            center = np.array([side * radius * 1.3, step * thing.height])
            blobs.append((center + rng.normal(0, 0.06, 2), radius * 0.75))
    _crown(canvas, thing, base, distance, scale, blobs, "needles", 0.5)


def _pole(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    top = base - floats([0, thing.height * scale])
    color = np.asarray(thing.color, np.float32) * canvas.lit(TOWARD) * 1.2
    canvas.capsule(base, top, thing.width * scale, color, distance, POLE)


def _lamp(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    _pole(canvas, thing)
    color = np.asarray(thing.color, np.float32) * canvas.lit(TOWARD)
    top = base - floats([0, thing.height * scale])
    side = -1.0 if thing.x > 0 else 1.0
    arm = top + floats([side * 1.4, -0.35]) * np.float32(scale)
    canvas.capsule(top, arm, 0.6 * thing.width * scale, color, distance, POLE)
    end = arm + floats([side * 0.6 * scale, 0])
    canvas.capsule(arm, end, 1.2 * thing.width * scale, color * 1.2, distance, POLE)


def _sign(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    light = canvas.lit(TOWARD) * 1.1
    top = base - floats([0, thing.height * scale])
    metal = np.asarray(thing.second, np.float32) * light
    canvas.capsule(base, top, 0.15 * thing.width * scale, metal, distance, POLE)
    radius = thing.width / 2 * scale
    turns = {0: 14, 1: 3, 2: 4, 3: 4}[thing.shape]
    start = {0: 0.0, 1: -np.pi / 2, 2: np.pi / 4, 3: 0.0}[thing.shape]
    angles = start + np.arange(turns) * 2 * np.pi / turns
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if thing.shape == 2:  # boards are wider or taller than square
        rim = rim * np.array([1.0, 0.7 + 0.9 * (thing.seed % 100) / 100])
    center = top + floats([0, 0.4 * radius])
    corners = (center + rim * radius).astype(np.float32)
    color = np.asarray(thing.color, np.float32) * light
    canvas.outline(corners, color, distance, SIGN)
    # The pixel at the center of a small sign is labeled, too.
    row, column = int(center[1]), int(center[0])
    if 0 <= row < canvas.height and 0 <= column < canvas.width and radius >= 0.4:
        canvas.label[row, column] = SIGN
    if thing.shape in (0, 1) and radius > 1.2:
        face = floats([0.82, 0.82, 0.80]) * light
        inner = (center + rim * radius * 0.6).astype(np.float32)
        canvas.outline(inner, face, distance, SIGN)
    if radius > 2:
        mark = floats([0.08, 0.08, 0.09]) * light
        half = floats([0.25 * radius, 0])
        canvas.capsule(center - half, center + half, 0.22 * radius, mark, distance, SIGN)


def _person(canvas: Canvas, thing: Thing) -> None:
    foot = _foot(canvas, thing)
    if foot is None:
        return
    base, distance, scale = foot
    rng = np.random.default_rng(thing.seed)
    size = thing.height * scale
    light = canvas.lit(TOWARD) * 1.15
    upper = np.asarray(thing.color, np.float32) * light
    lower = np.asarray(thing.second, np.float32) * light
    skin = floats([0.62, 0.45, 0.35]) * rng.uniform(0.4, 1.2) * light
    stride = rng.uniform(-0.13, 0.13)

    def at(x: float, y: float) -> Floats:
        return base + floats([x * size, -y * size])

    def limb(a: Floats, b: Floats, width: float, color: Floats) -> None:
        canvas.capsule(a, b, width * size, color, distance, PERSON)

    hip, neck = at(0, 0.5), at(rng.uniform(-0.02, 0.02), 0.8)
    for side in (-1, 1):
        knee = at(side * (0.03 + 0.5 * abs(stride)), 0.27)
        limb(hip, knee, 0.12, lower)
        limb(knee, at(side * (0.04 + abs(stride)) + 0.3 * stride, 0.02), 0.1, lower)
    coat = rng.random() < 0.35
    limb(at(0, 0.40 if coat else 0.54), neck, 0.27 if coat else 0.24, upper)
    for side in (-1, 1):
        hand = at(side * rng.uniform(0.1, 0.16) - stride * side, 0.45)
        limb(at(side * 0.1, 0.77), hand, 0.08, upper * np.float32(0.9))
    head = at(0, 0.91)
    limb(head, head, 0.15, skin)
    limb(at(0, 0.945), at(0, 0.95), 0.1, floats([0.1, 0.08, 0.06]) * light)
    if rng.random() < 0.4:
        limb(at(0.1, 0.45), at(0.1, 0.6), 0.1, rng.uniform(0.05, 0.5, 3).astype(np.float32) * light)


def _fence(canvas: Canvas, thing: Thing) -> None:
    """Paint a fence along the street; its gaps are labeled as fence, as annotators do."""
    start, stop = thing.z, thing.z + thing.width
    color = np.asarray(thing.color, np.float32) * canvas.lit((-np.sign(thing.x), 0, 0)) * 1.2
    solid = thing.shape < 2
    edges = np.linspace(start, stop, max(2, int(thing.width / 2)))
    for near, far in zip(edges[-2::-1], edges[:0:-1], strict=True):
        corners = np.array(
            [
                (thing.x, 0, near),
                (thing.x, 0, far),
                (thing.x, thing.height, far),
                (thing.x, thing.height, near),
            ]
        )
        canvas.polygon(corners, color, FENCE, 0.9 if solid else 0.0)
        if solid:
            continue
        posts = np.linspace(near, far, 9)[:-1] if thing.shape == 2 else np.array([near])
        for z in posts.tolist():
            _bar(canvas, (thing.x, 0, z), (thing.x, thing.height, z), 0.1, color)
        for share in (0.15, 0.95) if thing.shape == 2 else (0.3, 0.62, 0.95):
            y = thing.height * share
            _bar(canvas, (thing.x, y, near), (thing.x, y, far), 0.12, color)


def _bar(
    canvas: Canvas,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    width: float,
    color: Floats,
) -> None:
    ahead = canvas.to_camera(np.array([start, end]))
    if ahead[:, 2].min() < NEAR:
        return
    pixels = canvas.to_pixels(ahead)
    distance = float(ahead[:, 2].mean())
    canvas.capsule(pixels[0], pixels[1], width * canvas.focal / distance, color, distance, None)


def _bin(canvas: Canvas, thing: Thing) -> None:
    """Paint a container, which is not a class of the data set and therefore unlabeled."""
    half = thing.width / 2
    _box(canvas, thing.x - half, thing.x + half, 0.05, thing.height, thing.z - half,
         thing.z + half, np.asarray(thing.color, np.float32), VOID)  # fmt: skip


def _box(
    canvas: Canvas,
    x0: float,
    x1: float,
    y0: float,
    y1: float,
    z0: float,
    z1: float,
    color: Floats,
    label: int,
) -> None:
    """Paint the visible faces of an upright box."""
    camera = canvas.camera
    if camera.height > y1:
        top = np.array([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)])
        canvas.polygon(top, color * canvas.lit(UP), label)
    for x, toward, visible in ((x0, -1.0, camera.x < x0), (x1, 1.0, camera.x > x1)):
        if visible:
            side = np.array([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)])
            canvas.polygon(side, color * canvas.lit((toward, 0, 0)), label)
    front = np.array([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)])
    canvas.polygon(front, color * canvas.lit(TOWARD), label)


def _car(canvas: Canvas, thing: Thing) -> None:
    """Paint a car along the street: body, cabin, windows, wheels, lights and license plate."""
    half, length = 0.88, thing.width
    z0, z1 = thing.z - length / 2, thing.z + length / 2
    ahead = canvas.to_camera(np.array([[thing.x, 0, z0]]))[0, 2]
    if ahead < 1.0:
        return
    detailed = canvas.focal / ahead > 8  # pixels per meter
    paint = np.asarray(thing.color, np.float32)
    van = thing.height > 1.9
    waist = 0.55 * thing.height if not van else 0.5 * thing.height
    x0, x1 = thing.x - half, thing.x + half
    dark = floats([0.035, 0.035, 0.04])
    under = np.array([(x0, 0.12, z0 + 0.2), (x1, 0.12, z0 + 0.2), (x1, 0.4, z0), (x0, 0.4, z0)])
    canvas.polygon(under, dark, CAR)
    _box(canvas, x0, x1, 0.28, waist, z0, z1, paint, CAR)

    # The cabin narrows upwards; hatchbacks, sedans and vans differ in where it starts and ends.
    start, end = {0: (0.06, 0.62), 1: (0.2, 0.68), 2: (0.04, 0.7), 3: (0.12, 0.66)}[thing.shape]
    if van:
        start, end = 0.01, 0.85
    rear, front = z0 + start * length, z0 + end * length
    slope = 0.1 if van else 0.45
    inset, roof = 0.12 if not van else 0.05, thing.height
    lower = [(x0 + 0.03, waist, rear), (x1 - 0.03, waist, rear),
             (x1 - 0.03, waist, front), (x0 + 0.03, waist, front)]  # fmt: skip
    upper = [(x0 + inset, roof, rear + 0.7 * slope), (x1 - inset, roof, rear + 0.7 * slope),
             (x1 - inset, roof, front - slope), (x0 + inset, roof, front - slope)]  # fmt: skip
    glass = floats([0.06, 0.07, 0.09]) + 0.12 * np.asarray(canvas.light.horizon, np.float32)
    if canvas.camera.height > roof:
        canvas.polygon(np.array(upper), paint * canvas.lit(UP), CAR)
    for a, b, x, toward, visible in (
        (0, 3, x0, -1.0, canvas.camera.x < x0),
        (1, 2, x1, 1.0, canvas.camera.x > x1),
    ):
        if visible:
            side = np.array([lower[a], lower[b], upper[b], upper[a]])
            canvas.polygon(side, paint * canvas.lit((toward, 0.2, 0)), CAR)
            canvas.polygon(_inset(side, 0.82), glass, CAR)
            for z in (z0 + 0.19 * length, z1 - 0.19 * length) if detailed else ():
                _wheel(canvas, x + toward * 0.01, z)
    back = np.array([lower[0], lower[1], upper[1], upper[0]])
    canvas.polygon(back, paint * canvas.lit((0, 0.3, -0.95)), CAR)
    if not van or thing.shape % 2:
        canvas.polygon(_inset(back, 0.84), glass * 1.3, CAR)

    if not detailed:
        return
    oncoming = thing.x < 0
    lamp = floats([0.85, 0.85, 0.8] if oncoming else [0.5, 0.04, 0.04])
    for x in (x0 + 0.05, x1 - 0.37):
        light = np.array([(x, waist - 0.28, z0), (x + 0.32, waist - 0.28, z0),
                          (x + 0.32, waist - 0.08, z0), (x, waist - 0.08, z0)])  # fmt: skip
        canvas.polygon(light, lamp * (0.4 + 0.6 * canvas.lit(TOWARD)), CAR)
    plate = np.array([(thing.x - 0.25, 0.42, z0), (thing.x + 0.25, 0.42, z0),
                      (thing.x + 0.25, 0.54, z0), (thing.x - 0.25, 0.54, z0)])  # fmt: skip
    canvas.polygon(plate, floats([0.75, 0.75, 0.7]) * canvas.lit(TOWARD), CAR)


def _wheel(canvas: Canvas, x: float, z: float) -> None:
    angles = np.arange(12) * 2 * np.pi / 12
    for radius, tone in ((0.33, 0.03), (0.19, 0.28)):
        rim = np.stack(
            [np.full(12, x), 0.33 + radius * np.sin(angles), z + radius * np.cos(angles)], axis=1
        )
        canvas.polygon(rim, floats([tone] * 3), CAR)


def _inset(corners: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    middle = corners.mean(axis=0)
    return middle + (corners - middle) * share
