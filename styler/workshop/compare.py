"""`vgg compare`: what networks cost, and how well they paint, measured against the first.

A name or weights file gives features, gradients and pictures; an ONNX model of `vgg export` gives features alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from styler import images, library
from styler.engine.painter import Painter
from styler.engine.targets import resolve_style_layers
from styler.errors import WeightsError
from styler.objective.moments import compute_moments
from styler.objective.terms import TOTAL, Objective
from styler.objective.wasserstein import WassersteinTarget, prepare_wasserstein_target, wasserstein_distance
from styler.options import Options
from styler.vgg import arch, registry, weights
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop import crops, export, memory
from styler.workshop.objectives import build_features, build_objective

HELD_OUT_LAYERS = ("relu1_2", "relu2_2", "relu3_3")
TIMING_ROUNDS = 3
"""Rounds of timing, each with all networks one after another; the best time counts."""
DEFAULT_PAIRS = (
    ("astronaut", "starry-night"),
    ("bridge", "woodcut"),
    ("cat", "watercolour"),
    ("coffee", "stained-glass"),
)
"""Names of bundled pictures."""

FeatureFunction = Callable[[Tensor], dict[str, Tensor]]
PicturePair = tuple[str, Tensor, Tensor]
"""A name, a content and a style, each (1, 3, H, W)."""


@dataclass(slots=True)
class NetworkScore:
    """The costs and errors of one network; NaN where an ONNX model has none: it has no gradient and paints nothing."""

    name: str
    parameters: int
    """Values in its convolutions, and in its readouts if it is slim."""
    bytes: int
    """Size of its file."""
    gflop: float = math.nan
    """Operations of a forward pass at the size of timing."""
    forward: float = math.nan
    """Seconds of a forward pass."""
    iteration: float = math.nan
    """Seconds of the objective and its gradient."""
    peak: float = math.nan
    """Bytes that an iteration adds to an idle process."""
    cosine: dict[str, float] = field(default_factory=dict)
    gram: dict[str, float] = field(default_factory=dict)
    gradient: float = math.nan
    """Cosine of the objective's gradient with the first network's, at contents and half-way to its paintings."""
    same: float = math.nan
    """Its objective of the first network's paintings, relative to the first network's own."""
    objective: dict[str, float] = field(default_factory=dict)
    """The first network's objective of the picture painted with this one, by pair."""
    held_out: dict[str, float] = field(default_factory=dict)
    structure: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of painting, by pair."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network to be compared, and its scores."""

    score: NetworkScore
    weights: Weights | None
    """None for an ONNX model."""
    model: Any = None
    """The session of an ONNX model."""

    def build_features(self, layers: list[str], pooling: str) -> FeatureFunction:
        """Return a function from an image (1, 3, H, W) to features with the full network's number of channels."""
        if self.weights is None:
            return partial(_run_onnx, self.model, layers)
        return partial(_run_features, Features(self.weights, layers, pooling), self.weights)


@torch.no_grad()
def _run_features(features: Features, network: Weights, image: Tensor) -> dict[str, Tensor]:
    maps: dict[str, Tensor] = features(image)
    for layer in features.layers:
        if (factors := network.factorize_readout(layer)) is not None:
            maps[layer] = F.conv2d(maps[layer], factors[0][:, :, None, None])
    return maps


def _run_onnx(session: Any, layers: list[str], image: Tensor) -> dict[str, Tensor]:
    outputs = [output.name for output in session.get_outputs()]
    missing = [layer for layer in layers if layer not in outputs]
    if missing:
        raise WeightsError(f"The model has no output {missing[0]}; export it again with --layers {','.join(layers)}.")
    maps = session.run(layers, {export.INPUT_NAME: image.contiguous().numpy()})
    return {layer: torch.from_numpy(x) for layer, x in zip(layers, maps, strict=True)}


def load_candidate(name: str) -> Candidate:
    """Load a backbone, a weights file or an ONNX model.

    Raises:
        OptionError: there is no such backbone.
        WeightsError: the file is missing, damaged, or not a network.
    """
    if name.endswith(".onnx"):
        return _load_onnx(Path(name))
    network = registry.load_backbone(name)
    path = Path(name)
    if name in weights.SHA256:
        path = registry.get_embedded_path(name)
    elif registry.is_valid_name(name) and registry.is_cached(name):
        path = registry.get_cached_paths(name)[0]
    parameters = sum(tensor.numel() for tensor in network.tensors.values())
    return Candidate(NetworkScore(name, parameters, path.stat().st_size), network)


def _load_onnx(path: Path) -> Candidate:
    data = weights.read_bytes(path)
    onnx, runtime = export.require_onnx()
    try:
        model = onnx.load_model_from_string(data)
        session = export.open_session(data)
    except export.list_onnx_errors(runtime) as error:
        raise WeightsError(f"The model '{path}' is not an ONNX model that can run; export it again.") from error
    parameters = sum(math.prod(item.dims) for item in model.graph.initializer if len(item.dims) > 0)
    return Candidate(NetworkScore(str(path), parameters, len(data)), None, session)


def measure_similarity(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Return the cosine of the features and the relative error of the Gram matrices of each layer.

    Both are NaN where the numbers of channels differ.
    """
    similarity = {}
    for layer, b in theirs.items():
        a = ours[layer]
        if a.shape != b.shape:
            similarity[layer] = (math.nan, math.nan)
            continue
        cosine = float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        x, y = a[0].flatten(1), b[0].flatten(1)
        gram, expected = x @ x.T, y @ y.T
        similarity[layer] = (cosine, float((gram - expected).norm() / expected.norm().clamp(min=1e-12)))
    return similarity


def average(values: Mapping[str, float]) -> float:
    """Return the mean over pairs or layers; NaN if there are none."""
    return sum(values.values()) / len(values) if values else math.nan


def average_ratio(row: NetworkScore, first: NetworkScore, field: str) -> float:
    """Return the mean over pairs of a row's values relative to the first row's."""
    ours, theirs = getattr(row, field), getattr(first, field)
    return average({pair: ours[pair] / theirs[pair] for pair in ours})


def format_table(rows: Sequence[NetworkScore]) -> list[str]:
    """Return the scores as a Markdown table, one network per row; ratios are to the first."""
    lines = [
        "| network | parameters | file | GFLOP | forward | iteration | peak | features | Gram | gradient "
        "| same picture | objective | held-out | structure |",
        "|---|" + "---:|" * 13,
    ]
    return lines + [f"| {row.name} | " + " | ".join(_format_cells(row, rows[0])) + " |" for row in rows]


def _format_cells(row: NetworkScore, first: NetworkScore) -> Iterator[str]:
    yield f"{row.parameters / 1e6:.2f} M"
    yield f"{row.bytes / 1e6:.1f} MB"
    for value, form, unit in (
        (row.gflop, ".0f", ""),
        (row.forward, ".2f", " s"),
        (row.iteration, ".2f", " s"),
        (row.peak / 1e6, ".0f", " MB"),
        (average(row.cosine), ".4f", ""),
        (average(row.gram), ".4f", ""),
        (row.gradient, ".4f", ""),
        (row.same, ".4f", ""),
        (average_ratio(row, first, "objective"), ".3f", " ×"),
        (average_ratio(row, first, "held_out"), ".3f", " ×"),
        (average(row.structure), ".2f", ""),
    ):
        yield f"{value:{form}}{unit}" if math.isfinite(value) else "–"


def scores_to_json(rows: Sequence[NetworkScore]) -> list[dict[str, object]]:
    """Return all values for JSON."""
    return [asdict(row) for row in rows]


def load_pairs(folder: Path | None, count: int, long_side: int) -> list[PicturePair]:
    """Load pairs to paint from the subfolders `contents` and `styles` of a folder, or those that come with styler.

    Raises:
        NothingMatched: one of the subfolders has no picture.
        ImageError: a picture cannot be read.
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
    log: Callable[[str], None] = lambda _line: None,
) -> list[NetworkScore]:
    """Measure networks against the first.

    Args:
        names: Backbones, weights files, or ONNX models of `vgg export`; the first must have gradients.
        timed_at: long side, in pixels, of the 4:3 image that iterations are timed with.
        keep: a folder for the painted pictures.
        log: called with a line for every step.

    Raises:
        StylerError: a network cannot be loaded, or a picture cannot be written.
    """
    options = (options or Options.of(preset="draft", size=256)).replace(sketch=0.0)  # no network helps another
    candidates = [load_candidate(name) for name in names]
    log("timing")
    _time_networks(candidates, options, timed_at)
    first = candidates[0]
    assert first.weights is not None
    judge = Judge(first.weights, options)
    for pair in pairs:
        first_picture: Tensor | None = None
        for candidate in candidates:
            name, score = candidate.score.name, candidate.score
            log(f"{pair[0]}: {name}")
            if candidate.weights is not None:
                picture = _paint(score, candidate.weights, pair, options)
                judge.score(score, pair, picture)
                first_picture = picture if first_picture is None else first_picture
                if keep is not None:
                    data = images.encode_image(picture[0].permute(1, 2, 0).contiguous().numpy())
                    images.write_file(keep / f"{pair[0]}.{Path(name).name}.png", data, overwrite=True)
            assert first_picture is not None
            _compare_features(candidate, first, first_picture, options, len(pairs))
            if candidate.weights is not None:
                _compare_gradients(candidate.weights, score, judge, pair, first_picture, len(pairs))
    return [candidate.score for candidate in candidates]


def _time_networks(candidates: Sequence[Candidate], options: Options, side: int) -> None:
    """Time forward passes and iterations of all networks in turn, so that a busy machine affects them all."""
    height, width = side * 3 // 4, side
    generator = torch.Generator().manual_seed(0)
    image, style = (torch.rand((1, 3, height, width), generator=generator) for _ in range(2))
    tasks: list[tuple[NetworkScore, str, Callable[[Tensor], object]]] = []
    for candidate in candidates:
        network, score = candidate.weights, candidate.score
        if network is None:
            layers = [output.name for output in candidate.model.get_outputs()]
            tasks.append((score, "forward", candidate.build_features(layers, options.pooling)))
            continue
        objective = _build_objective(network, options, image, style)
        layers = [*objective.features.layers]
        score.gflop = arch.count_flops(network.network, layers, height * width, network.widths) / 1e9
        score.peak = memory.measure_peak_memory(score.name, options.pooling, layers, (height, width))
        tasks.append((score, "forward", torch.no_grad()(objective.features.forward)))
        tasks.append((score, "iteration", objective.gradient))
    for _ in range(TIMING_ROUNDS):
        for score, name, task in tasks:
            start = time.perf_counter()
            task(image)
            seconds = time.perf_counter() - start
            setattr(score, name, min(seconds, getattr(score, name)))  # `min` keeps the first if the second is NaN


def _build_objective(network: Weights, options: Options, content: Tensor, style: Tensor) -> Objective:
    return build_objective(build_features(network, options), options, content, style)


def _paint(score: NetworkScore, network: Weights, pair: PicturePair, options: Options) -> Tensor:
    painter = Painter(score.name, options.device, options.precision, network)
    content, style = (image[0].permute(1, 2, 0).contiguous().numpy() for image in pair[1:])
    result = painter.stylize(content, style, options.replace(backbone=score.name))
    score.seconds[pair[0]] = result.seconds
    return torch.from_numpy(result.pixels).permute(2, 0, 1)[None].contiguous()


def _compare_features(candidate: Candidate, first: Candidate, picture: Tensor, options: Options, pairs: int) -> None:
    """Add the similarity of the features of a painted picture to the averages over pairs."""
    assert first.weights is not None
    score = candidate.score
    layers = list(resolve_style_layers(options, first.weights.network))
    ours, theirs = (network.build_features(layers, options.pooling)(picture) for network in (candidate, first))
    for layer, (cosine, gram) in measure_similarity(ours, theirs).items():
        score.cosine[layer] = score.cosine.get(layer, 0.0) + cosine / pairs
        score.gram[layer] = score.gram.get(layer, 0.0) + gram / pairs


def _compare_gradients(
    ours: Weights, score: NetworkScore, judge: "Judge", pair: PicturePair, picture: Tensor, pairs: int
) -> None:
    """Add the similarity of the gradients, and of the objectives of one picture, to the averages over pairs."""
    _, content, style = pair
    content = _fit_to(content, picture)
    theirs = judge.get_objective(pair, picture)
    mine = theirs if ours is judge.network else _build_objective(ours, judge.options, content, style)
    cosines = []
    for state in (content, (content + picture) / 2):
        gradients = [objective.gradient(state)[1].flatten() for objective in (mine, theirs)]
        cosines.append(float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)))
    ratio = float(mine.gradient(picture)[0][TOTAL] / theirs.gradient(picture)[0][TOTAL])
    score.gradient = (0.0 if math.isnan(score.gradient) else score.gradient) + sum(cosines) / len(cosines) / pairs
    score.same = (0.0 if math.isnan(score.same) else score.same) + ratio / pairs


def _fit_to(content: Tensor, picture: Tensor) -> Tensor:
    """Resize the content to the size of a painted picture."""
    return F.interpolate(content, picture.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)


class Judge:
    """The first network's judgment of a painted picture."""

    def __init__(self, network: Weights, options: Options) -> None:
        self.network, self.options = network, options
        self._objectives: dict[tuple[str, torch.Size], Objective] = {}
        self.features = build_features(network, options)
        layers = [layer for layer in HELD_OUT_LAYERS if layer in network.layers]
        self.held_out = Features(network, layers, options.pooling)

    def get_objective(self, pair: PicturePair, picture: Tensor) -> Objective:
        """Return the objective of a pair at the size of a picture (1, 3, H, W); that of the last pair is kept."""
        name, content, style = pair
        key = (name, picture.shape)
        if key not in self._objectives:
            objective = build_objective(self.features, self.options, _fit_to(content, picture), style)
            self._objectives = {key: objective}
        return self._objectives[key]

    def score(self, row: NetworkScore, pair: PicturePair, picture: Tensor) -> None:
        """Add the objective, held-out style distance and structure of a picture (1, 3, H, W) to a row."""
        name, content, style = pair
        content = _fit_to(content, picture)
        row.objective[name] = float(self.get_objective(pair, picture).gradient(picture)[0][TOTAL])
        ratio = max(picture.shape[-2:]) / max(style.shape[-2:])
        painting = F.interpolate(style, scale_factor=min(1.0, ratio), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            ours, theirs = self.held_out(picture), self.held_out(painting)
            row.held_out[name] = sum(
                float(wasserstein_distance(compute_moments(ours[layer]), _prepare_target(theirs[layer])))
                for layer in self.held_out.layers
            )
        row.structure[name] = measure_structure(picture, content)


def _prepare_target(maps: Tensor) -> WassersteinTarget:
    return prepare_wasserstein_target(compute_moments(maps))


def measure_structure(picture: Tensor, content: Tensor) -> float:
    """Return the correlation of the gradients of blurred luminance, −1 to 1: how much of the drawing is left."""
    gray = [F.avg_pool2d(image.mean(dim=1, keepdim=True), 9, stride=2) for image in (picture, content)]
    edges = [torch.cat([x.diff(dim=-2).flatten(), x.diff(dim=-1).flatten()]) for x in gray]
    return float(torch.corrcoef(torch.stack(edges))[0, 1])
