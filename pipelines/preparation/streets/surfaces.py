"""Paint the large surfaces of a scene: sky, ground and the fronts of buildings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.preparation.streets.canvas import Canvas
from pipelines.preparation.streets.classes import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION
from pipelines.preparation.streets.scene import Building, Scene, Thing
from pipelines.preparation.streets.texture import Floats, floats, hash_unit, textures

Mask = NDArray[np.bool_]


def paint_sky(canvas: Canvas, scene: Scene) -> None:
    """Paint the sky with clouds, and a hazy skyline of woods or buildings on the horizon."""
    light = scene.light
    rows = slice(0, int(np.ceil(canvas.center[1])) + 1)
    up = np.maximum(canvas.ray_y[rows], 1e-3)
    flat = np.hypot(canvas.ray_x, canvas.ray_z)
    elevation = np.broadcast_to(up / np.hypot(up, flat), (up.shape[0], canvas.width))
    share = np.clip(elevation * 1.8, 0, 1)[..., None] ** 0.6
    zenith, horizon = np.asarray(light.zenith, np.float32), np.asarray(light.horizon, np.float32)
    color = horizon + (zenith - horizon) * share
    # Clouds are a plane overhead, so they get denser towards the horizon.
    height = 0.12 / (up + 0.06)
    u = canvas.ray_x * height + light.cloud_shift
    v = canvas.ray_z * height
    cover = textures()["cloud"](
        u.astype(np.float32), v.astype(np.float32), (height / canvas.focal).astype(np.float32)
    )
    cloud = np.clip((cover + 2.2 * light.clouds - 1.5) * 0.8, 0, 0.9)[..., None]
    white = np.asarray(light.ambient, np.float32) * 1.25 + np.asarray(light.direct) * 0.25
    color = color + cloud * (white.astype(np.float32) - color)
    facing = (
        canvas.ray_x * light.sun[0] + up * light.sun[1] + canvas.ray_z * light.sun[2]
    ) / np.hypot(up, flat)
    glow = np.clip(facing, 0, 1)[..., None] ** 24
    color += 0.5 * glow * np.asarray(light.direct, np.float32)
    canvas.color[rows] = color
    canvas.label[rows] = SKY
    _paint_skyline(canvas, scene)


def _paint_skyline(canvas: Canvas, scene: Scene) -> None:
    tall, wooded = scene.skyline
    distance = 180.0
    azimuth = np.arctan2(canvas.ray_x, canvas.ray_z)[0]
    shift = scene.light.cloud_shift
    noise = textures()["rough"](
        ((azimuth + shift) * 8).astype(np.float32),
        np.full_like(azimuth, shift),
        np.full_like(azimuth, 8 / canvas.focal),
    )
    blocks = hash_unit(np.floor((azimuth + shift) * 28).astype(np.int32)) * 2 - 1
    top = tall * np.maximum(0.3, 1 + 0.45 * (noise if wooded < 0.5 else blocks))
    y = canvas.center[1] - canvas.focal * (top - canvas.camera.height) / distance
    rows = np.arange(canvas.height)[:, None] + 0.5
    mask = (rows > y[None, :]) & (rows < canvas.center[1] + 1)
    base = (0.16, 0.22, 0.10) if wooded < 0.5 else (0.40, 0.38, 0.37)
    color = np.asarray(base, np.float32) * canvas.lit((0, 0, -1)) * 1.4
    canvas.color[mask] = canvas.haze(color, distance)
    canvas.label[mask] = VEGETATION if wooded < 0.5 else BUILDING


def paint_ground(canvas: Canvas, scene: Scene) -> None:
    """Paint the road with its markings, curbs, sidewalks and verges, and the shadows on them."""
    street, camera = scene.street, scene.camera
    first = int(np.floor(canvas.center[1])) + 1
    if first >= canvas.height:
        return
    rows = slice(first, canvas.height)
    distance = camera.height / -canvas.ray_y[rows]
    x = camera.x + canvas.ray_x * distance
    z = canvas.ray_z * distance + np.zeros_like(x)
    footprint = np.broadcast_to(distance / canvas.focal, x.shape)
    # A pixel covers much more ground along the viewing direction than across it.
    stretch = np.broadcast_to(distance**2 / (canvas.focal * camera.height), x.shape)
    blur = np.sqrt(footprint * stretch)
    across = np.abs(x)

    rough = textures()["rough"](x + street.shift, z + street.shift, blur)
    wide = textures()["rough"]((x + street.shift) / 6, z / 9, blur / 7)
    grain = textures()["grain"](x, z, blur)
    half, walk = street.half_width, street.sidewalk
    side = np.zeros_like(x, bool)
    if street.side_street is not None:
        side = (z > street.side_street[0]) & (z < street.side_street[1])
    road = (across < half) | side
    pavement = ~road & (across < half + walk)
    verge = ~road & ~pavement

    color = np.empty((*x.shape, 3), np.float32)
    texture = 1 + street.wear * (rough + 0.8 * wide + 0.5 * grain)
    color[:] = np.asarray(street.road, np.float32) * texture[..., None]
    _paint_patches(color, road, x, z, street.shift, blur)
    _paint_markings(color, scene, x, z, across, side, footprint, rough)
    slabs = _joints(x, z, street.paving, footprint, stretch)
    stone: Floats = (1 + 0.7 * street.wear * (rough + grain)) * (1 - 0.22 * slabs)
    stone *= 1 + 0.10 * (
        hash_unit(
            np.floor(x / street.paving).astype(np.int32),
            np.floor(z / street.paving).astype(np.int32),
        )
        - 0.5
    ) * np.clip(street.paving / stretch - 1, 0, 1)
    color[pavement] = (np.asarray(street.pavement, np.float32) * stone[..., None])[pavement]
    curb = pavement & (across < half + 0.18)
    color[curb] *= 1.25
    grass = 1 + (0.35 if street.verge_green else 0.1) * (
        textures()["leaves"](x, z, blur) + 0.5 * grain
    )
    color[verge] = (np.asarray(street.verge, np.float32) * grass[..., None])[verge]

    lit = 1 - _sun_shadow(scene, x, z)
    ambient = np.asarray(canvas.light.ambient, np.float32) * _occlusion(scene, x, z)[..., None]
    direct = np.asarray(canvas.light.direct, np.float32) * max(0.0, canvas.light.sun[1])
    color *= ambient + direct * lit[..., None]
    canvas.color[rows] = canvas.haze(np.clip(color, 0, None), distance + np.zeros_like(x))
    canvas.depth[rows] = distance
    canvas.label[rows] = np.where(
        road, ROAD, np.where(pavement | (not street.verge_green), SIDEWALK, VEGETATION)
    )


def _joints(x: Floats, z: Floats, size: float, footprint: Floats, stretch: Floats) -> Floats:
    """Return the share of each pixel covered by joints between slabs of `size` meters.

    Joints fade out where slabs are only a few pixels large.
    """
    along = np.abs((x / size) % 1.0 - 0.5) * size
    ahead = np.abs((z / size) % 1.0 - 0.5) * size
    lines = np.clip(1 - (size / 2 - along) / (footprint + 0.01), 0, 1) * np.clip(
        size / (3 * footprint) - 1, 0, 1
    )
    cross = np.clip(1 - (size / 2 - ahead) / (stretch + 0.01), 0, 1) * np.clip(
        size / (3 * stretch) - 1, 0, 1
    )
    joints: Floats = np.maximum(lines, cross)
    return joints


def _paint_patches(
    color: Floats, road: Mask, x: Floats, z: Floats, shift: float, blur: Floats
) -> None:
    """Paint repaired rectangles of asphalt, darker or lighter than the rest, and cracks."""
    cell_x, cell_z = np.floor(x / 2.4).astype(np.int32), np.floor((z + shift) / 6).astype(np.int32)
    chosen = hash_unit(cell_x, cell_z, int(shift * 100))
    tone = 0.75 + 0.4 * hash_unit(cell_z, cell_x, int(shift * 100) + 1)
    patch = road & (chosen < 0.13)
    color[patch] *= tone[patch][:, None]
    crack = textures()["streaks"](z + shift, x, blur)
    thin = road & (crack > 1.9)
    color[thin] *= 0.8


def _paint_markings(
    color: Floats,
    scene: Scene,
    x: Floats,
    z: Floats,
    across: Floats,
    side: Mask,
    footprint: Floats,
    rough: Floats,
) -> None:
    """Paint worn lane lines, edge lines and zebra crossings."""
    street = scene.street
    width = 2 * street.half_width / street.lanes
    position = (x + street.half_width) / width
    nearest = np.abs(position - np.round(position)) * width
    inner = (np.round(position) > 0) & (np.round(position) < street.lanes)
    line = np.clip((0.08 - nearest) / footprint + 0.5, 0, 1) * np.minimum(1, 0.16 / footprint)
    dash = ((z + street.shift) % 9.0) < 4.0
    paint = line * np.where(inner & dash, 1.0, 0.0)
    edge = np.clip((0.07 - np.abs(across - street.half_width + 0.35)) / footprint + 0.5, 0, 1)
    paint = np.maximum(paint, edge * np.minimum(1, 0.14 / footprint) * (street.wear < 0.08))
    if street.crossing is not None:
        bars = (np.floor(x / 0.55).astype(np.int32) % 2 == 0) & (across < street.half_width - 0.3)
        zebra = bars & (z > street.crossing) & (z < street.crossing + 3)
        paint = np.where(zebra, np.clip(0.55 / (2 * footprint), 0.4, 1), paint)
    paint = paint * street.markings * np.clip(0.9 - 0.35 * np.maximum(rough, 0), 0.2, 1) * ~side
    color += paint[..., None] * (0.85 - color)


def _sun_shadow(scene: Scene, x: Floats, z: Floats) -> Floats:
    """Return the share of sunlight that buildings and objects block at ground points."""
    sun_x, sun_y, sun_z = scene.light.sun
    shade = np.zeros_like(x)
    for building in scene.buildings:
        wall = building.x0 if building.x0 > 0 else building.x1
        reached = (wall - x) / (sun_x if abs(sun_x) > 1e-3 else 1e-3)
        ahead = z + reached * sun_z
        hit = (reached > 0) & (reached * sun_y < building.height)
        shade[hit & (ahead > building.z0) & (ahead < building.z1)] = 1.0
    for thing in scene.things:
        # Shadows farther away are too foreshortened to be visible.
        if thing.z < 45 and thing.kind not in ("sign", "fence", "bin"):
            top = thing.height * (0.65 if thing.kind == "tree" else 0.5)
            radius = {"car": 1.3, "person": 0.25, "pole": 0.1, "lamp": 0.1}.get(
                thing.kind, thing.width * 0.45
            )
            away = top / max(sun_y, 0.15)
            center_x, center_z = thing.x - sun_x * away, thing.z - sun_z * away
            flat = np.hypot(sun_x, sun_z) + 1e-6
            reach = 1.5 * (radius + away * flat)
            near = (np.abs(z - center_z) < reach) & (np.abs(x - center_x) < reach)
            if not near.any():
                continue
            px, pz = x[near] - center_x, z[near] - center_z
            along = (px * sun_x + pz * sun_z) / flat
            beside = (px * sun_z - pz * sun_x) / flat
            length = radius + away * flat * (0.35 if thing.kind == "tree" else 1.0)
            inside = 1 - (along / length) ** 2 - (beside / radius) ** 2
            if thing.kind in ("tree", "conifer", "bush"):
                inside = inside + 0.6 * textures()["leaves"](px, pz, np.full_like(px, 0.05))
            shade[near] = np.maximum(shade[near], np.clip(inside * 4, 0, 0.9))
    return shade


def _occlusion(scene: Scene, x: Floats, z: Floats) -> Floats:
    """Return the share of ambient light that reaches ground points under and near objects."""
    light = np.ones_like(x)
    for thing in scene.things:
        half_x, half_z = _foot(thing)
        near = (np.abs(z - thing.z) < 3 * half_z) & (np.abs(x - thing.x) < 3 * half_x)
        if near.any():
            away = np.hypot((x[near] - thing.x) / half_x, (z[near] - thing.z) / half_z)
            light[near] *= 1 - 0.65 * np.clip(1.5 - away, 0, 1)
    return light


def _foot(thing: Thing) -> tuple[float, float]:
    if thing.kind == "car":
        return 1.0, thing.width / 2
    if thing.kind in ("bush", "bin"):
        return thing.width / 2, thing.width / 2
    return 0.25, 0.25


def paint_buildings(canvas: Canvas, scene: Scene) -> None:
    """Paint the street front and the near end of every building."""
    for building in scene.buildings:
        wall = building.x0 if building.x0 > 0 else building.x1
        toward = -1.0 if building.x0 > 0 else 1.0
        _paint_wall(canvas, building, wall, None, (toward, 0, 0))
        if building.z0 > 1:
            _paint_wall(canvas, building, None, building.z0, (0, 0, -1))


def _paint_wall(
    canvas: Canvas,
    building: Building,
    x: float | None,
    z: float | None,
    normal: tuple[float, float, float],
) -> None:
    """Paint an upright wall in the plane of constant `x`, or of constant `z`."""
    top = building.height + building.roof_height
    xs = (building.x0, building.x1) if x is None else (x, x)
    zs = (max(building.z0, 0.5), building.z1) if z is None else (z, z)
    corners = np.array([(xs[i], y, zs[i]) for i in (0, 1) for y in (0.0, top)])
    ahead = canvas.to_camera(corners)
    if (ahead[:, 2] < 0.3).all():
        return
    ahead[:, 2] = np.maximum(ahead[:, 2], 0.3)
    pixels = canvas.to_pixels(ahead)
    region = canvas.region(*pixels.min(axis=0), *pixels.max(axis=0))
    if region is None:
        return
    ray_x, ray_z = canvas.ray_x[:, region.columns], canvas.ray_z[:, region.columns]
    ray_y = canvas.ray_y[region.rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        if x is not None:
            distance = (x - canvas.camera.x) / ray_x
            along = distance * ray_z
            inside = (along > building.z0) & (along < building.z1)
        else:
            distance = z / ray_z
            along = canvas.camera.x + distance * ray_x
            inside = (along > building.x0) & (along < building.x1)
        up = canvas.camera.height + distance * ray_y
        mask = inside & (distance > 0.3) & (up > 0) & (up < top)
    mask &= distance < canvas.depth[region.rows, region.columns] - 0.02
    if not mask.any():
        return
    rows, columns = np.nonzero(mask)
    away = np.broadcast_to(distance, mask.shape)[mask].astype(np.float32)
    v = up[mask].astype(np.float32)
    u = np.broadcast_to(along, mask.shape)[mask].astype(np.float32)
    u -= building.z0 if x is not None else building.x0
    color, green = _wall_color(building, u, v, away / canvas.focal)
    color = canvas.haze(color * canvas.lit(normal), away)
    painted = (rows + region.rows.start, columns + region.columns.start)
    canvas.color[painted] = color
    canvas.depth[painted] = away
    canvas.label[painted] = np.where(green, VEGETATION, BUILDING)


def _wall_color(building: Building, u: Floats, v: Floats, footprint: Floats) -> tuple[Floats, Mask]:
    """Return the reflectance at (u, v) meters along and up the wall, and where ivy covers it."""
    texture = textures()
    seed = building.seed % 9973
    shift = np.float32(seed % 97)
    rough = texture["rough"](u + shift, v + shift, footprint)
    wall = np.asarray(building.wall, np.float32)
    tone = 1 + 0.05 * rough + 0.05 * texture["streaks"](u + shift, v, footprint)
    if building.surface == "brick":
        course = np.floor(v / 0.25).astype(np.int32)
        brick = hash_unit(course, np.floor(u / 0.5 + 0.5 * (course % 2)).astype(np.int32), seed)
        visible = np.clip(0.3 / footprint - 1, 0, 1)
        joint = ((v / 0.25) % 1.0 < 0.22) * 0.25
        tone = tone + visible * (0.3 * (brick - 0.5) - joint)
    elif building.surface == "panels":
        panel = hash_unit(
            np.floor(u / building.bay).astype(np.int32),
            np.floor(v / building.floor).astype(np.int32),
            seed,
        )
        tone = tone + 0.16 * (panel - 0.5)
    color = wall * tone[:, None]

    # One window per bay and floor, above a shop on the ground floor.
    base = building.shop
    column = np.floor(u / building.bay).astype(np.int32)
    floor = np.floor((v - base) / building.floor).astype(np.int32)
    across = np.abs((u / building.bay) % 1.0 - 0.5) * building.bay
    upward = np.abs(((v - base) / building.floor) % 1.0 - 0.5) * building.floor
    half_width, half_height = (
        building.window[0] * building.bay / 2,
        building.window[1] * building.floor / 2,
    )
    edge = np.minimum(half_width - across, half_height - upward)
    pane = np.clip(edge / footprint + 0.5, 0, 1)
    frame = np.clip((edge + 0.14) / footprint + 0.5, 0, 1) - pane
    fits = (v > base) & (v < building.height - 0.6)
    own = hash_unit(column, floor, seed)
    glass = np.asarray(building.glass, np.float32) * (0.5 + 1.0 * own)[:, None]
    glass = glass + 0.14 * np.clip(upward / half_height, 0, 1)[:, None]  # reflected sky
    glass = np.where((own < building.lit)[:, None], floats([0.85, 0.7, 0.42]), glass)
    glass = np.where((own > 0.88)[:, None], wall * 1.1, glass)  # curtains, shutters
    strength = building.contrast * fits
    color = color + (frame * strength)[:, None] * (np.asarray(building.trim) - color)
    color = color + (pane * strength)[:, None] * (glass - color)
    ledge = (np.abs((v - base) % building.floor) < 0.22) & (v > base)
    color = np.where(ledge[:, None], color * (1 - 0.18 * building.contrast), color)

    if base:
        shop = v < base
        bay = np.floor(u / 4.5).astype(np.int32)
        paint = np.stack([hash_unit(bay, seed, k) for k in range(3)], axis=1)
        sign = shop & (v > base - 0.8)
        awning = shop & ~sign & (v > base - 1.3) & (hash_unit(bay, seed, 5) > 0.6)
        window = shop & ~sign & (v > 0.5) & (np.abs((u / 4.5) % 1.0 - 0.5) < 0.44)
        inside = np.asarray(building.glass, np.float32) * (0.6 + 0.8 * paint[:, :1])
        inside = inside + 0.1 * np.clip(rough, -1, 1)[:, None]
        color = np.where(window[:, None], inside, color)
        color = np.where((sign | awning)[:, None], 0.12 + 0.5 * paint, color)
    roof = v > building.height
    tiles = 1 + 0.12 * np.sin(v * 18) * np.clip(0.2 / footprint - 0.5, 0, 1) + 0.06 * rough
    color = np.where(roof[:, None], np.asarray(building.roof, np.float32) * tiles[:, None], color)
    leaves = texture["leaves"](u + shift, v, footprint)
    reach = texture["rough"](u / 3 + shift, v / 3, footprint / 3)
    green = (building.ivy > 0) & (reach + 1.2 * (1 - v / 6) > 1.2 - building.ivy) & ~roof
    ivy = floats([0.17, 0.25, 0.09]) * (1 + 0.35 * leaves)[:, None]
    return np.clip(np.where(green[:, None], ivy, color), 0, None).astype(np.float32), green
