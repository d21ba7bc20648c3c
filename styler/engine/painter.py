"""The painter: networks on their device and a cache of style statistics, shared by many paintings.

Prepares a `Run` for each painting; does not know how one proceeds.
"""

import os
import threading
from collections.abc import Iterator

import numpy as np
import torch

from styler import images, schedule
from styler.engine import targets
from styler.engine.budget import Budget, Clock
from styler.engine.device import (
    choose_device,
    choose_precision,
    has_ample_memory,
    keep_freed_memory,
    needs_checkpoint,
    prepare_device,
)
from styler.engine.result import Pixels, Progress, Result
from styler.engine.run import Run
from styler.engine.targets import SourceImage, StyleCache
from styler.errors import UsageError
from styler.images import Picture
from styler.options import INIT_CHOICES, Options
from styler.schedule import Replay
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import SLIM, Weights

Input = str | os.PathLike[str] | Picture | Pixels
"""A file, a decoded picture, or an array (H, W, 3) of sRGB: floats in [0, 1] or bytes."""
Inputs = Input | list[Input] | tuple[Input, ...]


class Painter:
    """Networks on their device and the cache of style statistics, shared by many paintings.

    The options of each painting name its backbone; one other than the first is loaded when it is first needed.

    Args:
        backbone: loaded first: `vgg16`, which is part of styler, or another of `styler.vgg.registry.BACKBONES`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: of the convolutions: `auto`, `fp32`, `bf16` or `fp16`.
        weights: of the first backbone, if already loaded.

    Raises:
        WeightsError: the weights are missing or altered.
        DeviceError: the device is not available.
    """

    def __init__(
        self, backbone: str = "vgg16", device: str = "auto", precision: str = "auto", weights: Weights | None = None
    ) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(self.device, precision)
        self._weights = {backbone: registry.load_backbone(backbone) if weights is None else weights}
        self._features: dict[tuple[str, tuple[str, ...], tuple[str, ...], str], Features] = {}
        self._cache = StyleCache()
        prepare_device(self.device)

    @classmethod
    def of(cls, options: Options, weights: Weights | None = None) -> "Painter":
        """Make a painter with the backbone, device and precision of the options."""
        return cls(options.backbone, options.device, options.precision, weights)

    def use_store(self, store: targets.StatsStore | None) -> None:
        """Look up style statistics in a persistent store before computing them, and store them there."""
        self._cache = StyleCache(store)

    def load_networks(self, options: Options) -> None:
        """Load every network that the options need, so that a missing one is reported before any work.

        Raises:
            StylerError: as `features` does.
        """
        self.features(options)
        if schedule.compute_sketch_share(options):
            self.features(options, sketch=True)

    def features(self, options: Options, *, sketch: bool = False) -> Features:
        """Return the network up to the layers that the options need, loading it if necessary.

        Args:
            options: backbone, pooling and layers are read.
            sketch: return the slim network that replaces the backbone in a sketch.

        Raises:
            StylerError: the backbone cannot be loaded, or lacks one of the layers or the pooling.
        """
        backbone = SLIM if sketch else options.backbone
        key = (backbone, options.content_layers, options.style_layers, options.pooling)
        if key not in self._features:
            if backbone not in self._weights:
                self._weights[backbone] = registry.load_backbone(backbone)
            weights = self._weights[backbone]
            layers = targets.resolve_layers(options, weights.network)
            self._features[key] = Features(weights, layers, options.pooling, self.precision).to(self.device)
        return self._features[key]

    def stream(
        self,
        content: Input,
        styles: Inputs,
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
        start: Input | None = None,
    ) -> Iterator[Progress]:
        """Paint, reporting after every iteration; the last report carries the `Result`.

        Setting `stop`, from any thread, ends with a complete result of the best picture so far; closing the generator
        discards it.

        Args:
            content: the photo.
            styles: one painting, or several to be blended by `options.style_weights`.
            options: all settings; `Options()` if not given.
            stop: checked between convolutions.
            replay: an executed schedule (`Result.replay`) to use in place of the one that the options give; that of a
                stopped painting is repeated as far as it went.
            start: the picture that `options.init` names, if already loaded.

        Raises:
            StylerError: a picture cannot be read, a setting is invalid, or memory is insufficient; if possible, before
                the first iteration.
        """
        options = options or Options()
        run = self._prepare_run(content, styles, options, stop or threading.Event(), replay, start)
        threads = torch.get_num_threads()
        try:
            if options.threads:
                torch.set_num_threads(options.threads)
            yield from run.paint()
        finally:
            torch.set_num_threads(threads)

    def stylize(
        self,
        content: Input,
        styles: Inputs,
        options: Options | None = None,
        stop: threading.Event | None = None,
        replay: Replay | None = None,
    ) -> Result:
        """Paint as `stream` does and return the result."""
        result = None
        for progress in self.stream(content, styles, options, stop, replay):
            result = progress.result
        assert result is not None
        return result

    def _prepare_run(
        self,
        content: Input,
        styles: Inputs,
        options: Options,
        stop: threading.Event,
        replay: Replay | None,
        start: Input | None,
    ) -> Run:
        source = load_source(content)
        style_sources = [load_source(style) for style in (styles if isinstance(styles, list | tuple) else [styles])]
        _check_style_weights(options, len(style_sources))
        features = self.features(options)
        height, width = source.image.shape[-2:]
        size = schedule.compute_result_size(options, width, height)
        scales = schedule.build_schedule(options, width, height, features.min_side)
        if replay is not None and scales:
            allow_sketch = schedule.compute_sketch_share(options) > 0
            scales = schedule.refit_schedule(replay, *size, features.min_side, allow_sketch=allow_sketch)
        checkpoint = bool(scales) and needs_checkpoint(features, size, options.checkpoint, self.device)
        keep_freed_memory(self.device, not checkpoint and has_ample_memory(features, size, self.device))
        if options.init in INIT_CHOICES:
            start_source = style_sources[0] if options.init == "style" else source
        else:
            start_source = load_source(options.init if start is None else start)
        clock = Clock(scales)
        has_budget = replay is None and (options.time or options.patience)
        return Run(
            options=options,
            content=source,
            styles=style_sources,
            start=start_source,
            features=features,
            slim=self.features(options, sketch=True) if any(scale.sketch for scale in scales) else features,
            cache=self._cache,
            size=size,
            schedule=scales,
            checkpoint=checkpoint,
            stop=stop,
            clock=clock,
            budget=Budget(options, scales, clock) if has_budget else None,
        )


def load_source(source: Input) -> SourceImage:
    """Load a picture in any of its forms as a tensor on the CPU.

    Raises:
        ImageError: the file cannot be read.
        UsageError: the array has the wrong shape, type or values.
    """
    if isinstance(source, str | os.PathLike):
        source = images.read_image(source)
    picture = source if isinstance(source, Picture) else Picture(np.asarray(source))
    pixels: Pixels = picture.pixels
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UsageError(f"The array has the shape {pixels.shape}; a picture has the shape (height, width, 3).")
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"The array has the type {pixels.dtype}; convert it to floats in [0, 1] or to uint8.")
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise UsageError("The array has values that are not finite; a picture is sRGB in [0, 1].")
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].clamp(0, 1).contiguous()  # (1, 3, H, W)
    return SourceImage.of(image, sha256=picture.sha256, alpha=picture.alpha, metadata=picture.metadata)


def _check_style_weights(options: Options, count: int) -> None:
    """Raise `UsageError` unless the style weights fit the number of styles."""
    if not count:
        raise UsageError("No style is given; give at least one.")
    if options.style_weights and len(options.style_weights) != count:
        raise UsageError(
            f"style_weights has {len(options.style_weights)} numbers for {count} styles; give one for each."
        )
    if options.style_weights and not sum(options.style_weights):
        raise UsageError("All style weights are 0; give at least one style a positive weight.")


def stream(
    content: Input, styles: Inputs, options: Options | None = None, stop: threading.Event | None = None
) -> Iterator[Progress]:
    """Paint one picture as `Painter.stream` does, with a painter made from the options."""
    yield from Painter.of(options or Options()).stream(content, styles, options, stop)


def stylize(
    content: Input, styles: Inputs, options: Options | None = None, stop: threading.Event | None = None
) -> Result:
    """Paint one picture as `Painter.stylize` does, with a painter made from the options."""
    return Painter.of(options or Options()).stylize(content, styles, options, stop)
