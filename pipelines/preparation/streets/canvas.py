"""The image being rendered: color, label and depth per pixel, and primitives to paint on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.preparation.streets.scene import Camera, Color, Light
from pipelines.preparation.streets.texture import Floats

NEAR = 0.4  # meters ahead of the camera; nothing closer is painted
VOID = 255  # label of unlabeled pixels


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels with the coordinates of their centers: x (1, width), y (height, 1)."""

    rows: slice
    columns: slice
    x: Floats
    y: Floats


class Canvas:
    """An image of surfaces and shapes as `camera` sees them in `light`.

    color: linear RGB, float32 (height, width, 3). label: uint8 (height, width). depth: distance of
    painted surfaces in meters, float32 (height, width).
    """

    def __init__(self, height: int, width: int, camera: Camera, light: Light) -> None:
        self.height, self.width = height, width
        self.camera, self.light = camera, light
        self.focal = camera.focal * width
        self.center = (width / 2, camera.horizon * height)
        self.color = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), VOID, np.uint8)
        self.depth = np.full((height, width), np.inf, np.float32)
        self._sine, self._cosine = np.sin(camera.yaw), np.cos(camera.yaw)
        self.sun = np.asarray(light.sun, np.float32)
        # Directions of the pixels' rays in the world, scaled to end one meter ahead of the camera.
        x = ((np.arange(width, dtype=np.float32) + 0.5) - self.center[0]) / self.focal
        y = (self.center[1] - (np.arange(height, dtype=np.float32) + 0.5)) / self.focal
        self.ray_x = (self._cosine * x + self._sine)[None, :].astype(np.float32)
        self.ray_z = (self._cosine - self._sine * x)[None, :].astype(np.float32)
        self.ray_y = y[:, None].astype(np.float32)

    def project(self, points: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """Project world points (n, 3) to pixels (n, 2) and distances ahead (n,).

        The distances must exceed NEAR.
        """
        ahead = self.to_camera(points)
        return self.to_pixels(ahead), ahead[:, 2].astype(np.float32)

    def to_camera(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert world points (n, 3) to meters right of, above and ahead of the camera."""
        x, y, z = (np.asarray(points) - (self.camera.x, self.camera.height, 0)).T
        return np.stack(
            [self._cosine * x - self._sine * z, y, self._sine * x + self._cosine * z], axis=1
        )

    def to_pixels(self, ahead: NDArray[np.float64]) -> Floats:
        scale = self.focal / ahead[:, 2]
        x = self.center[0] + ahead[:, 0] * scale
        y = self.center[1] - ahead[:, 1] * scale
        return np.stack([x, y], axis=1).astype(np.float32)

    def region(self, x0: float, y0: float, x1: float, y1: float) -> Region | None:
        """Return the pixels of a rectangle, or None if it is outside the image."""
        left, right = max(0, int(np.floor(x0))), min(self.width, int(np.ceil(x1)) + 1)
        top, bottom = max(0, int(np.floor(y0))), min(self.height, int(np.ceil(y1)) + 1)
        if left >= right or top >= bottom:
            return None
        return Region(
            slice(top, bottom),
            slice(left, right),
            np.arange(left, right, dtype=np.float32)[None, :] + 0.5,
            np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5,
        )

    def lit(self, normal: tuple[float, float, float]) -> Floats:
        """Return the color of the light on a surface: ambient, and sunlight if it faces the sun."""
        facing = max(0.0, float(self.sun @ np.asarray(normal, np.float32)))
        sky = 0.75 + 0.25 * normal[1]
        light = np.asarray(self.light.ambient) * sky + np.asarray(self.light.direct) * facing
        return light.astype(np.float32)

    def haze(self, color: Floats, distance: Floats | float) -> Floats:
        """Return `color` (..., 3) as seen through `distance` meters of air."""
        clear = np.exp(-self.light.haze * np.asarray(distance, np.float32))[..., None]
        return color * clear + np.asarray(self.light.horizon, np.float32) * (1 - clear)

    def paint(
        self,
        region: Region,
        alpha: Floats,
        color: Floats | Color,
        distance: float,
        label: int | None,
        labeled: NDArray[np.bool_] | None = None,
    ) -> None:
        """Blend `color` over a region with opacity `alpha`, and set `label` unless it is None.

        labeled: the pixels that get the label; default: where `alpha` is at least 0.5.
        """
        pixels = (region.rows, region.columns)
        hazed = self.haze(np.asarray(color, np.float32), distance)
        under = self.color[pixels]
        under += alpha[..., None] * (hazed - under)
        if label is not None:
            self.label[pixels][alpha >= 0.5 if labeled is None else labeled] = label

    def polygon(
        self,
        points: NDArray[np.float64],
        color: Floats | Color,
        label: int | None,
        opacity: float = 1.0,
    ) -> None:
        """Fill a convex polygon of world points (n, 3)."""
        ahead = _clip_near(self.to_camera(np.asarray(points, float)))
        if len(ahead) < 3:
            return
        self.outline(self.to_pixels(ahead), color, float(ahead[:, 2].mean()), label, opacity)

    def outline(
        self,
        corners: Floats,
        color: Floats | Color,
        distance: float,
        label: int | None,
        opacity: float = 1.0,
    ) -> None:
        """Fill a convex polygon of pixel positions (n, 2), with smooth edges.

        All of it is labeled, even if `opacity` makes it transparent.
        """
        (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
        region = self.region(x0 - 1, y0 - 1, x1 + 1, y1 + 1)
        if region is None:
            return
        following = corners[np.arange(1, len(corners) + 1) % len(corners)]
        (dx, dy), (x, y) = (following - corners).T, corners.T
        area = float((x * following[:, 1] - following[:, 0] * y).sum())
        length = np.hypot(dx, dy)
        if abs(area) < 1e-3 or not length.all():
            return
        # Signed distance to each edge's line, positive inside; the smallest one decides.
        slope = np.copysign(1 / length, area)[:, None, None]
        signed = dx[:, None, None] * slope * (region.y - y[:, None, None])
        signed = signed - dy[:, None, None] * slope * (region.x - x[:, None, None])
        inside = signed.min(axis=0)
        alpha = np.clip(inside + 0.5, 0, 1) * opacity
        self.paint(region, alpha, color, distance, label, inside >= 0)

    def capsule(
        self,
        start: Floats,
        end: Floats,
        width: float,
        color: Floats | Color,
        distance: float,
        label: int | None,
    ) -> None:
        """Draw a thick line between two pixel positions.

        A line thinner than a pixel is faint but labeled one pixel wide, as an annotator would.
        """
        margin = width / 2 + 1.5
        (x0, y0), (x1, y1) = np.minimum(start, end), np.maximum(start, end)
        region = self.region(x0 - margin, y0 - margin, x1 + margin, y1 + margin)
        if region is None:
            return
        dx, dy = (float(value) for value in end - start)
        along = (region.x - start[0]) * dx + (region.y - start[1]) * dy
        along = np.clip(along / max(dx * dx + dy * dy, 1e-6), 0, 1)
        away = np.hypot(region.x - start[0] - along * dx, region.y - start[1] - along * dy)
        alpha = np.clip(width / 2 + 0.5 - away, 0, min(1.0, width))
        self.paint(region, alpha, color, distance, label, away <= max(width / 2, 0.5))


def _clip_near(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clip a convex polygon in camera coordinates to distances of at least NEAR."""
    if points[:, 2].min() >= NEAR:
        return points
    kept: list[NDArray[np.float64]] = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)
