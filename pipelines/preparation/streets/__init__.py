"""Procedural street scenes: the embedded data set, which needs no download.

A scene is composed in meters from (seed, index) and then rendered at any size; the size changes the
camera's resolution, not the scene.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.preparation.streets.canvas import VOID, Canvas
from pipelines.preparation.streets.classes import CLASSES
from pipelines.preparation.streets.composition import compose_scene
from pipelines.preparation.streets.objects import paint_things
from pipelines.preparation.streets.scene import Sensor
from pipelines.preparation.streets.surfaces import paint_buildings, paint_ground, paint_sky
from pipelines.preparation.streets.texture import Floats

__all__ = ["CLASSES", "render_street"]

Pixels = NDArray[np.uint8]


def render_street(seed: int, index: int, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Render scene `index` of `seed`.

    Return the image, uint8 (height, width, 3), and the label, uint8 (height, width) with indices
    into CLASSES and 255 for unlabeled pixels.
    """
    scene = compose_scene(seed, index)
    canvas = Canvas(height, width, scene.camera, scene.light)
    paint_sky(canvas, scene)
    paint_ground(canvas, scene)
    paint_buildings(canvas, scene)
    paint_things(canvas, scene)
    _paint_hood(canvas, scene.sensor)
    return _expose(canvas, scene.sensor), canvas.label


def _paint_hood(canvas: Canvas, sensor: Sensor) -> None:
    """Paint the hood of the camera's car at the bottom; it reflects the sky and is unlabeled."""
    if not sensor.hood:
        return
    x = (np.arange(canvas.width) + 0.5) / canvas.width - 0.5
    y = (np.arange(canvas.height)[:, None] + 0.5) / canvas.height
    top = 1 - sensor.hood * (1 - 1.6 * x**2)[None, :]
    mask = y > top
    shine = np.clip((y - top) / sensor.hood, 0, 1)[..., None]
    paint = np.random.default_rng(sensor.seed).uniform(0.03, 0.3, 3)
    color = paint * np.asarray(canvas.light.ambient) + 0.35 * (1 - shine) ** 2 * np.asarray(
        canvas.light.zenith
    )
    canvas.color[mask] = np.broadcast_to(color, canvas.color.shape)[mask]
    canvas.label[mask] = VOID


def _expose(canvas: Canvas, sensor: Sensor) -> Pixels:
    """Simulate the camera: blur, vignetting, tone curve, noise, and black unlabeled borders."""
    height, width = canvas.height, canvas.width
    color = _blur(canvas.color, sensor.blur * width)
    x = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[:, None]
    color = color * (1 - sensor.vignette * 0.5 * (x**2 + y**2))[..., None]
    color = np.clip(color * (sensor.exposure * 1.15 * np.asarray(sensor.balance, np.float32)), 0, 4)
    tone = (color * (1 + 0.12 * color) / (1 + 0.45 * color)) ** np.float32(1 / 1.7)
    tone = 0.5 + (tone - 0.5) * np.float32(sensor.contrast)
    rng = np.random.default_rng(sensor.seed)
    noise = rng.standard_normal(tone.shape, dtype=np.float32)
    tone = tone + sensor.noise * noise * (0.5 + np.sqrt(np.clip(tone, 0, 1)))
    pixels = (np.clip(tone, 0, 1) * 255 + 0.5).astype(np.uint8)
    border = round(sensor.border * height)
    if border:
        frame = np.ones((height, width), bool)
        frame[border : height - border, border : width - border] = False
        pixels[frame] = 0
        canvas.label[frame] = VOID
    return pixels


def _blur(color: Floats, sigma: float) -> Floats:
    """Apply a separable Gaussian blur, or none if `sigma` is below 0.2 pixels."""
    if sigma < 0.2:
        return color
    radius = int(np.ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(color, pad, mode="edge")
        length = color.shape[axis]
        color = sum(
            tap * np.take(padded, range(k, k + length), axis=axis) for k, tap in enumerate(taps)
        )
    return color
