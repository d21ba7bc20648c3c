"""`vgg compare`: which network to take, judged by what painting asks of it.

The first network is the measure of the others: its features, its gradient, and its objective of the pictures that are
painted with each. Held-out is what no painting went after: the style distance at layers that the objective does not
use, and how much of the photo's structure is left. Accuracy on ImageNet, the usual measure, says nothing of either.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from styler import images, library, losses
from styler.objective import TOTAL, Objective
from styler.options import Options
from styler.pipeline import Painter
from styler.targets import Source, StyleCache, compute, content_layers, style_layers, weighting
from styler.vgg import crops, family, peak
from styler.vgg.candidates import Candidate, candidate, relative
from styler.vgg.features import Features
from styler.vgg.rows import Row
from styler.vgg.weights import Weights

HELD_OUT = ("relu1_2", "relu2_2", "relu3_3")
ROUNDS = 3
"""Of timing, all networks one after another in each; the best counts."""

Pair = tuple[str, Tensor, Tensor]
"""Name, content and style, each (1, 3, H, W)."""


PAIRS = (("astronaut", "starry-night"), ("bridge", "woodcut"), ("cat", "watercolour"), ("coffee", "stained-glass"))
"""Of the pictures that come with styler."""


def pairs(folder: Path | None, count: int, long_side: int) -> list[Pair]:
    """Pairs to paint: of the pictures in `contents` and `styles` of a folder, or of those that come with styler.

    Raises:
        NothingMatched: one of the folders has no picture.
        ImageError: one cannot be read.
    """
    if folder is None:
        chosen = [(library.contents()[content], library.styles()[style]) for content, style in PAIRS]
    else:
        contents, styles = (crops.paths(folder / name) for name in ("contents", "styles"))
        chosen = [(content, styles[i % len(styles)]) for i, content in enumerate(contents)]
    return [
        (f"{content.stem}.{style.stem}", crops.tensor(content, long_side), crops.tensor(style, long_side))
        for content, style in chosen[:count]
    ]


def compare(
    names: Sequence[str],
    pairs: Sequence[Pair],
    options: Options | None = None,
    *,
    timed_at: int = 512,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> list[Row]:
    """Measure networks against the first.

    Args:
        names: backbones, files of weights, or ONNX models of `vgg export`; the first must have gradients.
        pairs: what to paint.
        options: how to paint.
        timed_at: long side, in pixels, of the picture that one evaluation is timed with; it is 4:3.
        keep: a folder for the pictures.
        say: told what is being done.

    Raises:
        StylerError: a network cannot be loaded, or a picture cannot be written.
    """
    options = (options or Options.of(preset="draft", size=256)).replace(sketch=0.0)  # each for itself
    found = [candidate(name) for name in names]
    rows = [Row(one.name, one.parameters, one.bytes) for one in found]
    say("timing")
    _time(found, rows, options, timed_at)
    first = found[0].weights
    assert first is not None
    judge = Judge(first, options)
    for pair in pairs:
        theirs: Tensor | None = None
        for one, row in zip(found, rows, strict=True):
            say(f"{pair[0]}: {one.name}")
            if one.weights is not None:
                picture = _painted(one, row, pair, options)
                judge.score(row, pair, picture)
                theirs = picture if theirs is None else theirs
                if keep is not None:
                    images.write_file(keep / f"{pair[0]}.{Path(one.name).name}.png", _png(picture), overwrite=True)
            assert theirs is not None
            _look(one, row, found[0], theirs, options, len(pairs))
            if one.weights is not None:
                _pull(one.weights, row, first, pair, theirs, options, len(pairs))
    return rows


def _time(found: Sequence[Candidate], rows: Sequence[Row], options: Options, side: int) -> None:
    """Forward and evaluation of all networks, in turn, so that a busy machine is busy for all."""
    height, width = side * 3 // 4, side
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.rand((1, 3, height, width), generator=generator) for _ in range(2))
    works: list[tuple[Row, str, Callable[[], object]]] = []
    for one, row in zip(found, rows, strict=True):
        if one.weights is None:
            layers = [output.name for output in one.model.get_outputs()]
            works.append((row, "forward", _bound(one.features(layers, options.pooling), image)))
            continue
        objective = objective_of(one.weights, options, image, other)
        row.gflop = (
            family.flops(one.weights.network, objective.features.layers, height * width, one.weights.widths) / 1e9
        )
        row.peak = peak.measured(one.name, options.pooling, objective.features.layers, (height, width))
        works += [
            (row, "forward", _bound(_forward(objective.features), image)),
            (row, "evaluation", _bound(objective.gradient, image)),
        ]
    for _ in range(ROUNDS):
        for row, what, work in works:
            began = time.perf_counter()
            work()
            spent = time.perf_counter() - began
            setattr(row, what, min(spent, getattr(row, what)) if math.isfinite(getattr(row, what)) else spent)


def _bound(work: Callable[[Tensor], object], image: Tensor) -> Callable[[], object]:
    return lambda: work(image)


def _forward(features: Features) -> Callable[[Tensor], object]:
    def run(image: Tensor) -> object:
        with torch.no_grad():
            return features(image)

    return run


def _painted(one: Candidate, row: Row, pair: Pair, options: Options) -> Tensor:
    painter = Painter(one.name, options.device, options.precision)
    inputs = [image[0].permute(1, 2, 0).contiguous().numpy() for image in pair[1:]]
    result = painter.stylize(inputs[0], inputs[1], options.replace(backbone=one.name))
    row.seconds[pair[0]] = result.seconds
    return torch.from_numpy(result.pixels).permute(2, 0, 1)[None].contiguous()


def _look(one: Candidate, row: Row, first: Candidate, picture: Tensor, options: Options, pairs: int) -> None:
    """How near the features are, on a painted picture."""
    assert first.weights is not None
    layers = list(style_layers(options, first.weights.network))
    ours = one.features(layers, options.pooling)(picture)
    for layer, (cosine, gram) in relative(ours, first.features(layers, options.pooling)(picture)).items():
        row.cosine[layer] = row.cosine.get(layer, 0.0) + cosine / pairs
        row.gram[layer] = row.gram.get(layer, 0.0) + gram / pairs


def _pull(ours: Weights, row: Row, first: Weights, pair: Pair, picture: Tensor, options: Options, pairs: int) -> None:
    """How alike the gradients are, and the objectives of one picture."""
    _, content, style = pair
    content = F.interpolate(content, picture.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    mine, theirs = (objective_of(network, options, content, style) for network in (ours, first))
    cosines = []
    for state in (content, (content + picture) / 2):
        pulls = [objective.gradient(state)[1].flatten() for objective in (mine, theirs)]
        cosines.append(float(torch.cosine_similarity(pulls[0], pulls[1], dim=0)))
    share = float(mine.gradient(picture)[0][TOTAL] / theirs.gradient(picture)[0][TOTAL])
    row.gradient = (0.0 if math.isnan(row.gradient) else row.gradient) + sum(cosines) / len(cosines) / pairs
    row.same = (0.0 if math.isnan(row.same) else row.same) + share / pairs


def objective_of(network: Weights, options: Options, content: Tensor, style: Tensor) -> Objective:
    """The objective of a picture of the content's size."""
    wanted = (*content_layers(options, network.network), *style_layers(options, network.network))
    features = Features(network, wanted, options.pooling)
    size = (content.shape[-1], content.shape[-2])
    targets = compute(features, Source.of(content), [Source.of(style.contiguous())], size, options, StyleCache())
    return Objective(features, targets, weighting(options, network.network))


class Judge:
    """The first network's opinion of a painted picture."""

    def __init__(self, weights: Weights, options: Options) -> None:
        self.weights, self.options = weights, options
        self.held_out = Features(weights, [layer for layer in HELD_OUT if layer in weights.layers], options.pooling)

    def score(self, row: Row, pair: Pair, picture: Tensor) -> None:
        """Objective, held-out style distance and structure of a picture (1, 3, H, W)."""
        name, content, style = pair
        content = F.interpolate(content, picture.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        objective = objective_of(self.weights, self.options, content, style)
        row.objective[name] = float(objective.gradient(picture)[0][TOTAL])
        ratio = max(picture.shape[-2:]) / max(style.shape[-2:])
        painting = F.interpolate(style, scale_factor=min(1.0, ratio), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            ours, theirs = self.held_out(picture), self.held_out(painting)
            row.held_out[name] = sum(
                float(losses.wasserstein_distance(losses.moments(ours[layer]), _target(theirs[layer])))
                for layer in self.held_out.layers
            )
        row.structure[name] = structure(picture, content)


def _target(maps: Tensor) -> losses.WassersteinTarget:
    return losses.wasserstein_target(losses.moments(maps))


def structure(picture: Tensor, content: Tensor) -> float:
    """Correlation of the gradients of blurred luminance: how much of the photo's drawing is left, −1 to 1."""
    grey = [F.avg_pool2d(image.mean(dim=1, keepdim=True), 9, stride=2) for image in (picture, content)]
    edges = [torch.cat([(x[..., 1:, :] - x[..., :-1, :]).flatten(), x.diff(dim=-1).flatten()]) for x in grey]
    return float(torch.corrcoef(torch.stack(edges))[0, 1])


def _png(picture: Tensor) -> bytes:
    stream = io.BytesIO()
    pixels = (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()
