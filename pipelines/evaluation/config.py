"""How a trained model is applied to images and scored."""

from dataclasses import dataclass

_LARGEST_SCALE = 16  # an image has 256 times as many pixels at this scale


@dataclass(frozen=True)
class InferenceConfig:
    """How a model is applied to an image; the default is a single scale, whole image, no flip.

    scales: factors by which the image is resized; the probabilities are averaged.
    flip: also predict the mirrored image, at every scale.
    window: height and width in pixels of a window that slides over the resized image, cropped to a
        smaller image; None for the whole image.
    stride: rows and columns from one window to the next; None for two thirds of the window.
    """

    __pydantic_config__ = {"extra": "forbid"}

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        possible = all(0 < scale <= _LARGEST_SCALE for scale in self.scales)
        if not (self.scales and possible and len(set(self.scales)) == len(self.scales)):
            raise ValueError(
                f"scales must be different factors above 0 and at most {_LARGEST_SCALE}, such as "
                f"(0.5, 1, 1.5); received {self.scales}"
            )
        for name, sizes in (("window", self.window), ("stride", self.stride)):
            if sizes is not None and (len(sizes) != 2 or min(sizes) < 1):
                raise ValueError(
                    f"{name} must be two sizes in pixels, height and width, such as (512, 1024); "
                    f"received {sizes}"
                )
        if self.stride is None:
            return
        if self.window is None:
            raise ValueError(f"stride needs a window; received stride {self.stride} without one")
        if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
            raise ValueError(
                f"stride must not exceed the window {self.window}, or pixels between two windows "
                f"would not be predicted; received {self.stride}"
            )

    @property
    def step(self) -> tuple[int, int] | None:
        """The effective stride; None without a window."""
        if self.window is None or self.stride is not None:
            return self.stride
        height, width = self.window
        return max(1, 2 * height // 3), max(1, 2 * width // 3)

    @property
    def views(self) -> tuple[tuple[float, bool], ...]:
        """(scale, mirrored) of every pass over an image."""
        mirrored = (False, True) if self.flip else (False,)
        return tuple((scale, flipped) for scale in self.scales for flipped in mirrored)

    @property
    def protocol(self) -> str:
        """A name that is unique to these settings, of letters, digits, `-`, `_` and `.`.

        Examples: `whole`, `whole_flip`, `window-512x512-by-341x341_scales-0.5-1-1.5_flip`.
        """
        parts = ["whole"]
        if self.window is not None and self.step is not None:
            size, step = ("x".join(map(str, sizes)) for sizes in (self.window, self.step))
            parts = [f"window-{size}-by-{step}"]
        if self.scales != (1.0,):
            parts.append("-".join(["scales", *(f"{scale:.9g}" for scale in self.scales)]))
        return "_".join(parts + ["flip"] * self.flip)


@dataclass(frozen=True)
class EvaluationConfig(InferenceConfig):
    """How a model is scored; the default is a single scale on whole images.

    batch: images of one size that a worker reads together; does not change the score, because the
        network is applied to one image at a time.
    every: validate every this many epochs; the last epoch is always validated.
    boundary: tolerance in pixels of the boundary F-score; 0 to skip it.
    """

    __pydantic_config__ = {"extra": "forbid"}

    batch: int = 4
    every: int = 1
    boundary: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.boundary < 0:
            raise ValueError(
                f"boundary must be a tolerance in pixels, or 0 to skip it; received {self.boundary}"
            )
