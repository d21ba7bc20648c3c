"""What a front end receives: `Progress` after every iteration, and a `Result` at the end.

Nothing here waits for the device until a loss or the live view is read.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler import images, provenance, save
from styler.borders import Box
from styler.engine.resume.state import Snapshot, refuse_late
from styler.errors import UsageError
from styler.options import Options
from styler.regions.resolve import MaskEntry
from styler.resample import resize
from styler.schedule import Replay, Schedule

Pixels = NDArray[Any]
"""(H, W, 3), sRGB; what styler returns is float32 in [0, 1]."""


def to_pixels(image: Tensor) -> Pixels:
    """Convert an image (1, 3, H, W) to an array (H, W, 3) of float32."""
    return np.ascontiguousarray(image[0].float().cpu().permute(1, 2, 0).numpy(), dtype=np.float32)


def resize_alpha(alpha: Pixels | None, width: int, height: int) -> Pixels | None:
    """Resize an alpha channel (H, W)."""
    return None if alpha is None else resize(torch.tensor(alpha)[None, None], width, height)[0, 0].numpy()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """A finished painting and how it was made."""

    pixels: Pixels
    """(H, W, 3), sRGB in [0, 1], at the requested size."""
    options: Options
    schedule: Schedule
    """The executed schedule: the scales that were reached and the iterations made at each."""
    losses: Mapping[str, float]
    """Terms of the returned picture at the last scale; empty at strength 0."""
    units: float
    """Work done: one unit is one iteration at the final size, without half-size copies."""
    seconds: float
    scale_seconds: tuple[float, ...]
    """Seconds spent at each scale of the schedule."""
    stopped: bool
    """Whether it was stopped before the schedule was finished."""
    device: str
    precision: str
    threads: int
    """CPU threads: a seed gives the same pixels only with the same number."""
    weights_sha256: str
    processor: str
    """As `name_processor` returns it; another kind of processor gives slightly different pixels."""
    torch: str
    """Version of PyTorch."""
    slim_sha256: str = ""
    """Of the slim network's weights; empty if no scale was sketched."""
    notes: tuple[str, ...] = ()
    """Sentences about exceptional events, such as a recovery."""
    content_sha256: str = ""
    """Of the content's file; empty if it was given as an array."""
    style_sha256: tuple[str, ...] = ()
    """Of each style's file; empty for an array."""
    trims: tuple[Box | None, ...] = ()
    """The part of each style inside its border; None for a style that was used whole."""
    start_sha256: str = ""
    """Of the file that `options.init` names; empty if it names none."""
    masks: tuple[MaskEntry, ...] = ()
    """The masks of protected parts and regions."""
    background: tuple[float, float, float] | None = None
    """Behind transparent parts of the content, a style or the start, in sRGB; None if all are opaque."""
    alpha: Pixels | None = None
    """The content's alpha at the size of `pixels`, (H, W) in [0, 1]; None if the content is opaque."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The content's metadata, as in `Picture.metadata`."""

    @property
    def iterations(self) -> int:
        """Iterations made, over all scales."""
        return sum(scale.iterations for scale in self.schedule)

    @property
    def replay(self) -> Replay:
        """The executed schedule, for `Painter.stream` to repeat."""
        return Replay(self.schedule, self.pixels.shape[1], self.pixels.shape[0])

    def to_pil(self) -> Image.Image:
        """Return the painting as a PIL image, RGB, or RGBA if the content has alpha; only `save` stores the record."""
        pixels = images.to_uint8(self.pixels)
        if self.alpha is None:
            return Image.fromarray(pixels)
        return Image.fromarray(np.dstack([pixels, images.to_uint8(self.alpha)]))

    def encode(
        self,
        *,
        format: str = "png",  # noqa: A002 - as in `images.encode_image`
        bit_depth: int = 8,
        settings: bool = True,
        keep_metadata: bool = False,
    ) -> bytes:
        """Encode the painting with the content's alpha.

        Args:
            format: a key of `styler.images.FORMATS`, or a usual extension.
            bit_depth: 8, or 16 where the format supports it.
            settings: whether to store the record of how it was made.
            keep_metadata: whether to store the content's metadata.

        Raises:
            StylerError: the format cannot hold the picture.
        """
        name = format.lower().removeprefix(".")
        format = {"jpg": "jpeg", "tif": "tiff"}.get(name, name)  # noqa: A001
        return save.encode_painting(
            self.pixels,
            alpha=self.alpha,
            record=provenance.make_record(self) if settings else None,
            format=format,
            bit_depth=bit_depth,
            metadata=self.metadata if keep_metadata else {},
            dpi=self.options.dpi,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        bit_depth: int = 8,
        settings: bool = True,
        keep_metadata: bool = False,
    ) -> Path:
        """Encode the painting as `encode` does, in the format of the path's extension, and write it.

        The file is written whole or not at all; missing folders are created, and `~` is the home folder.

        Raises:
            StylerError: the extension is unknown, the file exists and `overwrite` is not set, or it cannot be written.
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"A {type(path).__name__} is not a path to save to; write the bytes of encode() into it.")
        data = self.encode(
            format=images.find_format(path), bit_depth=bit_depth, settings=settings, keep_metadata=keep_metadata
        )
        return images.write_file(os.path.expanduser(path), data, overwrite=overwrite)  # noqa: PTH111 - keeps ~x if unknown


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Progress:
    """The state of a painting after an iteration. Reading `losses`, `loss` or `live_view()` waits for the device."""

    schedule: Schedule
    scale: int
    """Index of the current scale, from 0."""
    iteration: int
    """Iterations made at this scale."""
    total_iterations: int
    """Iterations made so far, over all scales."""
    units: float
    """Work done so far, as in `Result.units`."""
    total_units: float
    """Work of the whole schedule."""
    seconds: float
    """Since the painting began."""
    eta: float | None
    """Estimated seconds left; None before the first iteration has been timed."""
    terms: Mapping[str, Tensor]
    """Losses on their device; `losses` reads them."""
    render: Callable[[], Pixels]
    """Copies the current image from the device; `live_view` calls it."""
    capture: Callable[..., Snapshot] = refuse_late
    """Copies the state from the device; `snapshot` and `save_state` call it."""
    result: Result | None = None
    """Set in the last report only."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the current scale."""
        return self.schedule[self.scale].size if self.schedule else (0, 0)

    @property
    def iterations(self) -> int:
        """Iterations scheduled at this scale."""
        return self.schedule[self.scale].iterations if self.schedule else 0

    @property
    def losses(self) -> dict[str, float]:
        """Every term of the image evaluated last, with their sum as `total`."""
        return {name: float(term) for name, term in self.terms.items()}

    @property
    def loss(self) -> float:
        """The total loss; NaN before the first iteration."""
        return float(self.terms["total"]) if self.terms else float("nan")

    def snapshot(self) -> Snapshot:
        """Return the state of the painting, with which `Painter.stream` can go on; copies it from the device.

        Raises:
            UsageError: the next iteration has begun, or the painting has ended.
        """
        return self.capture()

    def save_state(self, path: str | os.PathLike[str]) -> Path:
        """Write the snapshot to a file, for which the memory of a copy is not needed; see `Snapshot.save`.

        Raises:
            UsageError: as `snapshot`.
            OutputError: the file cannot be written.
        """
        return self.capture(copy=False).save(path)

    def live_view(self) -> Pixels:
        """Return the current image, (H, W, 3) at the size of the current scale."""
        return self.result.pixels if self.result else self.render()
