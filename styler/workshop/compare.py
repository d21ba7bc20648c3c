"""Networks to be compared, each as what gives features and, where it can, gradients and pictures.

A name or file of weights gives all of them; an ONNX model that `vgg export` wrote gives features alone.
"""

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from styler import images, library
from styler.engine import losses
from styler.engine.objective import TOTAL, Objective
from styler.engine.painter import Painter
from styler.engine.targets import (
    SourceImage,
    StyleCache,
    compute_targets,
    compute_term_weights,
    resolve_content_layers,
    resolve_style_layers,
)
from styler.errors import WeightsError
from styler.options import Options
from styler.vgg import arch, registry, weights
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop import crops, export, memory

FeaturesOf = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network by the name it was given."""

    name: str
    parameters: int
    """Numbers in its convolutions, and in its readouts if it is slim."""
    bytes: int
    """Of its file."""
    weights: Weights | None
    """None of an ONNX model."""
    model: Any = None
    """The session of an ONNX model."""

    def features(self, layers: list[str], pooling: str) -> FeaturesOf:
        """A function from a picture (1, 3, H, W) to features with as many channels as the full network's."""
        if self.weights is None:
            return lambda image: _run_onnx(self.model, layers, image)
        network, read = Features(self.weights, layers, pooling), self.weights

        def found(image: Tensor) -> dict[str, Tensor]:
            with torch.no_grad():
                maps = network(image)
                return {layer: _expand_features(read, layer, maps[layer]) for layer in layers}

        return found


def load_candidate(name: str) -> Candidate:
    """Load what a name or file stands for.

    Raises:
        OptionError: there is no such backbone.
        WeightsError: the file is missing, damaged, or no network.
    """
    if name.endswith(".onnx"):
        return _load_onnx(Path(name))
    found = registry.load_backbone(name)
    tensors = [*found.kernels.values(), *found.readouts.values()]
    path = Path(name)
    if name in weights.SHA256:
        path = registry.embedded_path(name)
    elif registry.is_valid_name(name) and registry.is_cached(name):
        path = registry.cached_paths(name)[0]
    return Candidate(name, sum(t.numel() for t in tensors), path.stat().st_size, found)


def _load_onnx(path: Path) -> Candidate:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The model '{path}' cannot be read ({error.strerror}); check its name.") from error
    onnx, runtime = export.require_onnx()
    try:
        model = onnx.load_model_from_string(data)
        session = export.open_session(data)
    except export.onnx_errors(runtime) as error:
        raise WeightsError(f"The model '{path}' is no ONNX that can be run; export it again.") from error
    numbers = sum(_count_values(item.dims) for item in model.graph.initializer if len(item.dims) > 0)
    return Candidate(str(path), numbers, len(data), None, session)


def _count_values(dims: Any) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


def _run_onnx(session: Any, layers: list[str], image: Tensor) -> dict[str, Tensor]:
    outputs = [output.name for output in session.get_outputs()]
    missing = [layer for layer in layers if layer not in outputs]
    if missing:
        raise WeightsError(f"The model has no output {missing[0]}; export it again with --layers {','.join(layers)}.")
    found = session.run(layers, {export.INPUT_NAME: image.contiguous().numpy()})
    return {layer: torch.from_numpy(maps) for layer, maps in zip(layers, found, strict=True)}


def _expand_features(read: Weights, layer: str, maps: Tensor) -> Tensor:
    expansion = read.expansion(layer)
    return maps if expansion is None else torch.nn.functional.conv2d(maps, expansion[:, :, None, None])


def measure_similarity(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """By layer: cosine of the features, and relative error of the Gram matrices; NaN where channels differ."""
    found = {}
    for layer, b in theirs.items():
        a = ours[layer]
        if a.shape != b.shape:
            found[layer] = (float("nan"), float("nan"))
            continue
        cosine = float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        x, y = a[0].flatten(1), b[0].flatten(1)
        gram, wanted = x @ x.T, y @ y.T
        found[layer] = (cosine, float((gram - wanted).norm() / wanted.norm().clamp(min=1e-12)))
    return found


@dataclass(slots=True)
class NetworkScore:
    """One network. What it cannot give is NaN: an ONNX model has no gradient and paints nothing."""

    name: str
    parameters: int
    bytes: int
    gflop: float = math.nan
    """Of a forward pass at the size of timing."""
    forward: float = math.nan
    """Seconds of a forward pass."""
    evaluation: float = math.nan
    """Seconds of the objective and its gradient."""
    peak: float = math.nan
    """Bytes beyond the resting program, in an evaluation."""
    cosine: dict[str, float] = field(default_factory=dict)
    gram: dict[str, float] = field(default_factory=dict)
    gradient: float = math.nan
    """Cosine of the objective's gradient with the first network's, at contents and half-way to its paintings."""
    same: float = math.nan
    """Its objective of the first network's paintings, over the first network's own."""
    objective: dict[str, float] = field(default_factory=dict)
    """The first network's objective of the picture painted with this one, by pair."""
    held_out: dict[str, float] = field(default_factory=dict)
    structure: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of painting."""


def average(values: Mapping[str, float]) -> float:
    """Of a row's numbers by pair or layer; NaN when there are none."""
    return sum(values.values()) / len(values) if values else math.nan


def mean_ratio(row: NetworkScore, first: NetworkScore, what: str) -> float:
    """The mean over pairs of a row's numbers over the first row's."""
    ours, theirs = getattr(row, what), getattr(first, what)
    return average({pair: ours[pair] / theirs[pair] for pair in ours})


def format_table(rows: Sequence[NetworkScore]) -> list[str]:
    """Markdown, one network a line; ratios are to the first."""
    lines = [
        "| network | numbers | file | GFLOP | forward | evaluation | peak | features | Gram | gradient | same picture "
        "| objective | held-out | structure |",
        "|---|" + "---:|" * 13,
    ]
    return lines + [f"| {row.name} | " + " | ".join(_cells(row, rows[0])) + " |" for row in rows]


def _cells(row: NetworkScore, first: NetworkScore) -> Iterator[str]:
    yield f"{row.parameters / 1e6:.2f} M"
    yield f"{row.bytes / 1e6:.1f} MB"
    yield _format_cell(row.gflop, ".0f")
    yield _format_cell(row.forward, ".2f", " s")
    yield _format_cell(row.evaluation, ".2f", " s")
    yield _format_cell(row.peak / 1e6, ".0f", " MB")
    yield _format_cell(average(row.cosine), ".4f")
    yield _format_cell(average(row.gram), ".4f")
    yield _format_cell(row.gradient, ".4f")
    yield _format_cell(row.same, ".4f")
    yield _format_cell(mean_ratio(row, first, "objective"), ".3f", " ×")
    yield _format_cell(mean_ratio(row, first, "held_out"), ".3f", " ×")
    yield _format_cell(average(row.structure), ".2f")


def _format_cell(value: float, form: str, unit: str = "") -> str:
    return f"{value:{form}}{unit}" if math.isfinite(value) else "–"


def scores_to_json(rows: Sequence[NetworkScore]) -> list[dict[str, object]]:
    """All numbers."""
    return [asdict(row) for row in rows]


HELD_OUT_LAYERS = ("relu1_2", "relu2_2", "relu3_3")
TIMING_ROUNDS = 3
"""Of timing, all networks one after another in each; the best counts."""

PicturePair = tuple[str, Tensor, Tensor]
"""Name, content and style, each (1, 3, H, W)."""


DEFAULT_PAIRS = (
    ("astronaut", "starry-night"),
    ("bridge", "woodcut"),
    ("cat", "watercolour"),
    ("coffee", "stained-glass"),
)
"""Of the pictures that come with styler."""


def load_pairs(folder: Path | None, count: int, long_side: int) -> list[PicturePair]:
    """Pairs to paint: of the pictures in `contents` and `styles` of a folder, or of those that come with styler.

    Raises:
        NothingMatched: one of the folders has no picture.
        ImageError: one cannot be read.
    """
    if folder is None:
        chosen = [(library.list_contents()[content], library.list_styles()[style]) for content, style in DEFAULT_PAIRS]
    else:
        contents, styles = (crops.find_pictures(folder / name) for name in ("contents", "styles"))
        chosen = [(content, styles[i % len(styles)]) for i, content in enumerate(contents)]
    return [
        (f"{content.stem}.{style.stem}", crops.load_picture(content, long_side), crops.load_picture(style, long_side))
        for content, style in chosen[:count]
    ]


def compare_networks(
    names: Sequence[str],
    pairs: Sequence[PicturePair],
    options: Options | None = None,
    *,
    timed_at: int = 512,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> list[NetworkScore]:
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
    found = [load_candidate(name) for name in names]
    rows = [NetworkScore(one.name, one.parameters, one.bytes) for one in found]
    say("timing")
    _time_networks(found, rows, options, timed_at)
    first = found[0].weights
    assert first is not None
    judge = Judge(first, options)
    for pair in pairs:
        theirs: Tensor | None = None
        for one, row in zip(found, rows, strict=True):
            say(f"{pair[0]}: {one.name}")
            if one.weights is not None:
                picture = _paint(one, row, pair, options)
                judge.score(row, pair, picture)
                theirs = picture if theirs is None else theirs
                if keep is not None:
                    images.write_file(
                        keep / f"{pair[0]}.{Path(one.name).name}.png", _encode_png(picture), overwrite=True
                    )
            assert theirs is not None
            _compare_features(one, row, found[0], theirs, options, len(pairs))
            if one.weights is not None:
                _compare_gradients(one.weights, row, first, pair, theirs, options, len(pairs))
    return rows


def _time_networks(found: Sequence[Candidate], rows: Sequence[NetworkScore], options: Options, side: int) -> None:
    """Forward and evaluation of all networks, in turn, so that a busy machine is busy for all."""
    height, width = side * 3 // 4, side
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.rand((1, 3, height, width), generator=generator) for _ in range(2))
    works: list[tuple[NetworkScore, str, Callable[[], object]]] = []
    for one, row in zip(found, rows, strict=True):
        if one.weights is None:
            layers = [output.name for output in one.model.get_outputs()]
            works.append((row, "forward", _bind(one.features(layers, options.pooling), image)))
            continue
        objective = build_objective(one.weights, options, image, other)
        row.gflop = (
            arch.count_flops(one.weights.network, objective.features.layers, height * width, one.weights.widths) / 1e9
        )
        row.peak = memory.measure_peak_memory(one.name, options.pooling, objective.features.layers, (height, width))
        works += [
            (row, "forward", _bind(_forward(objective.features), image)),
            (row, "evaluation", _bind(objective.gradient, image)),
        ]
    for _ in range(TIMING_ROUNDS):
        for row, what, work in works:
            began = time.perf_counter()
            work()
            spent = time.perf_counter() - began
            setattr(row, what, min(spent, getattr(row, what)) if math.isfinite(getattr(row, what)) else spent)


def _bind(work: Callable[[Tensor], object], image: Tensor) -> Callable[[], object]:
    return lambda: work(image)


def _forward(features: Features) -> Callable[[Tensor], object]:
    def run(image: Tensor) -> object:
        with torch.no_grad():
            return features(image)

    return run


def _paint(one: Candidate, row: NetworkScore, pair: PicturePair, options: Options) -> Tensor:
    painter = Painter(one.name, options.device, options.precision)
    inputs = [image[0].permute(1, 2, 0).contiguous().numpy() for image in pair[1:]]
    result = painter.stylize(inputs[0], inputs[1], options.replace(backbone=one.name))
    row.seconds[pair[0]] = result.seconds
    return torch.from_numpy(result.pixels).permute(2, 0, 1)[None].contiguous()


def _compare_features(
    one: Candidate, row: NetworkScore, first: Candidate, picture: Tensor, options: Options, pairs: int
) -> None:
    """How near the features are, on a painted picture."""
    assert first.weights is not None
    layers = list(resolve_style_layers(options, first.weights.network))
    ours = one.features(layers, options.pooling)(picture)
    for layer, (cosine, gram) in measure_similarity(ours, first.features(layers, options.pooling)(picture)).items():
        row.cosine[layer] = row.cosine.get(layer, 0.0) + cosine / pairs
        row.gram[layer] = row.gram.get(layer, 0.0) + gram / pairs


def _compare_gradients(
    ours: Weights, row: NetworkScore, first: Weights, pair: PicturePair, picture: Tensor, options: Options, pairs: int
) -> None:
    """How alike the gradients are, and the objectives of one picture."""
    _, content, style = pair
    content = F.interpolate(content, picture.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    mine, theirs = (build_objective(network, options, content, style) for network in (ours, first))
    cosines = []
    for state in (content, (content + picture) / 2):
        pulls = [objective.gradient(state)[1].flatten() for objective in (mine, theirs)]
        cosines.append(float(torch.cosine_similarity(pulls[0], pulls[1], dim=0)))
    share = float(mine.gradient(picture)[0][TOTAL] / theirs.gradient(picture)[0][TOTAL])
    row.gradient = (0.0 if math.isnan(row.gradient) else row.gradient) + sum(cosines) / len(cosines) / pairs
    row.same = (0.0 if math.isnan(row.same) else row.same) + share / pairs


def build_objective(network: Weights, options: Options, content: Tensor, style: Tensor) -> Objective:
    """The objective of a picture of the content's size."""
    wanted = (*resolve_content_layers(options, network.network), *resolve_style_layers(options, network.network))
    features = Features(network, wanted, options.pooling)
    size = (content.shape[-1], content.shape[-2])
    targets = compute_targets(
        features, SourceImage.of(content), [SourceImage.of(style.contiguous())], size, options, StyleCache()
    )
    return Objective(features, targets, compute_term_weights(options, network.network))


class Judge:
    """The first network's opinion of a painted picture."""

    def __init__(self, weights: Weights, options: Options) -> None:
        self.weights, self.options = weights, options
        self.held_out = Features(
            weights, [layer for layer in HELD_OUT_LAYERS if layer in weights.layers], options.pooling
        )

    def score(self, row: NetworkScore, pair: PicturePair, picture: Tensor) -> None:
        """Objective, held-out style distance and structure of a picture (1, 3, H, W)."""
        name, content, style = pair
        content = F.interpolate(content, picture.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        objective = build_objective(self.weights, self.options, content, style)
        row.objective[name] = float(objective.gradient(picture)[0][TOTAL])
        ratio = max(picture.shape[-2:]) / max(style.shape[-2:])
        painting = F.interpolate(style, scale_factor=min(1.0, ratio), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            ours, theirs = self.held_out(picture), self.held_out(painting)
            row.held_out[name] = sum(
                float(losses.wasserstein_distance(losses.compute_moments(ours[layer]), _target(theirs[layer])))
                for layer in self.held_out.layers
            )
        row.structure[name] = measure_structure(picture, content)


def _target(maps: Tensor) -> losses.WassersteinTarget:
    return losses.prepare_wasserstein_target(losses.compute_moments(maps))


def measure_structure(picture: Tensor, content: Tensor) -> float:
    """Correlation of the gradients of blurred luminance: how much of the photo's drawing is left, −1 to 1."""
    grey = [F.avg_pool2d(image.mean(dim=1, keepdim=True), 9, stride=2) for image in (picture, content)]
    edges = [torch.cat([(x[..., 1:, :] - x[..., :-1, :]).flatten(), x.diff(dim=-1).flatten()]) for x in grey]
    return float(torch.corrcoef(torch.stack(edges))[0, 1])


def _encode_png(picture: Tensor) -> bytes:
    stream = io.BytesIO()
    pixels = (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()
