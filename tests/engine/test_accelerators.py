"""Claims about GPUs, most of them checked without one: on the meta device, tensors have shapes but no values.

Whatever waits for a GPU reads a value, which raises there; a recorder sees whatever is made on the CPU and copied.
"""

import dataclasses
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest
import torch
from made import Pixels
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from styler import schedule
from styler.engine import run as run_module
from styler.engine import targets
from styler.engine.device import PRECISIONS, prepare_torch
from styler.engine.memory.estimate import Rung
from styler.engine.painter import Painter
from styler.engine.run import Run
from styler.engine.sources import Input, load_content, load_styles
from styler.objective.matching import Matching
from styler.objective.terms import Objective
from styler.objective.tiled_matching import TiledMatching
from styler.options import Options
from styler.regions.areas import Areas, normalize_regions
from styler.regions.resolve import ResolvedAreas
from styler.vgg.model import Features
from styler.vgg.weights import SLIM

META = torch.device("meta")
OPTIONS = Options(
    size=64, first_size=64, iterations=8, optimizer="adam", brushwork=0, device="cpu", precision="fp32", threads=1
)
"""Adam at 64 pixels, with half-size copies."""

SYNCHRONIZING = (
    *("linalg_eig", "_linalg", "linalg_lu", "linalg_cholesky", "linalg_inv", "linalg_solve", "cholesky", "lu_", "svd"),
    *("nonzero", "masked_select", "unique", "_unique", "item", "_local_scalar", "equal", "is_nonzero", "multinomial"),
    *("index_fill.int_Tensor", "index_fill_.int_Tensor", "masked_fill.Tensor", "masked_fill_.Tensor", "trace_backward"),
)
"""Beginnings of the names of operations that wait for a GPU: to check a factorization, to learn a size or a value."""

NOT_DETERMINISTIC = (
    *("replication_pad", "reflection_pad", "max_pool2d_with_indices_backward", "grid_sampler"),
    *("upsample_nearest2d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "_upsample"),
    *("index_put", "index_add", "scatter", "put", "cumsum", "bincount", "histc", "median", "kthvalue"),
    *("adaptive_", "avg_pool3d", "max_pool3d", "max_unpool", "embedding", "ctc_loss", "nll_loss"),
)
"""Beginnings of the names of operations whose CUDA kernels add up in any order, from the documentation of
`torch.use_deterministic_algorithms` and the errors it raises."""

GRAM = {"distance": "gram"}  # with the fewest operations
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "gatys": {"distance": "gatys"},
    "slim network": {"backbone": SLIM, "multiscale": 0},
    "gram": GRAM,
    "one size": {**GRAM, "multiscale": 0},
    "kept color": {**GRAM, "keep_color": 0.5},
    "not smoothed": {**GRAM, "smoothness": 0},
    "average pooling": {**GRAM, "pooling": "average"},
    "max pooling": {**GRAM, "pooling": "max"},
    "checkpointing": {**GRAM, "checkpoint": "on"},
    "bfloat16": {"precision": "bf16"},
    "float16": {"precision": "fp16", "checkpoint": "on"},
    "gatys in float16": {"precision": "fp16", "distance": "gatys"},
    "strokes": {**GRAM, "brushwork": 50},
    "strokes in bfloat16": {"precision": "bf16", "brushwork": 100, "strength": 30},
    "strokes in float16": {"precision": "fp16", "brushwork": 50, "checkpoint": "on"},
    "strokes of the slim network": {"backbone": SLIM, "multiscale": 0, "brushwork": 50},
    "areas": {"areas": True, "brushwork": 50},
    "areas in bfloat16": {"areas": True, "precision": "bf16", "keep_color": 0.5},
    "areas in float16": {"areas": True, "precision": "fp16", **GRAM},
    "tiles": {**GRAM, "tile": 48},
    "tiles with strokes": {"tile": 48, "brushwork": 50, "keep_color": 0.5, "checkpoint": "on", "multiscale": 0},
    "tiles with areas in float16": {**GRAM, "tile": 48, "areas": True, "precision": "fp16", "multiscale": 0},
    "tiles of gatys in float16": {"tile": 48, "precision": "fp16", "distance": "gatys", "multiscale": 0},
}
"""Options that change what a step computes. With strokes, every step matches."""


def find_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among the arguments or results of an operation."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from find_tensors(each)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records all operations, those of the backward pass included, with the shapes and types of what they return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[str, list[tuple[torch.Size, torch.dtype]]]] = []
        self.elsewhere: set[str] = set()
        """Operations with a tensor on another device: some take one on the CPU, too, or copy it from there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, result = str(func).removeprefix("aten."), func(*args, **(kwargs or {}))
        results = [*find_tensors(result)]
        self.operations.append((name, [(each.shape, each.dtype) for each in results]))
        self.elsewhere |= {name for each in (*results, *find_tensors(args)) if not each.is_meta}
        return result

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.operations}

    @property
    def dtypes(self) -> set[torch.dtype]:
        return {dtype for _, results in self.operations for _, dtype in results}


def move(value: Any, device: torch.device) -> Any:
    """Return a dataclass with all its tensors on a device."""
    fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.init}
    moved = tree_map(lambda part: part.to(device) if isinstance(part, Tensor) else part, fields)
    return dataclasses.replace(value, **moved)


def move_matching(
    monkeypatch: pytest.MonkeyPatch, matching: Matching | TiledMatching, features: Features, device: torch.device
) -> None:
    """Let the run match on a device, in every evaluation, by features that are there."""
    plan = dataclasses.replace(matching.plan, interval=1)
    moved = dataclasses.replace(move(matching, device), plan=plan, candidates=move(matching.candidates, device))
    if isinstance(moved, TiledMatching):
        network = features.select(moved.content.features.layers)
        moved.content = dataclasses.replace(move(moved.content, device), features=network)
    monkeypatch.setattr(targets, "prepare_matching", lambda *_given: moved)


def make_areas() -> Areas:
    """Return the areas of a photo of 64×48 pixels, each with half of it, of which a part is held and a part kept."""
    mask = torch.zeros(1, 1, 64, 48)
    mask[..., :24] = 1
    protection = torch.linspace(0, 1, 64)[:, None].expand(1, 1, 64, 48)
    return Areas.of(normalize_regions([mask]), [(0,), (1,)], protection)


def prepare_run(
    monkeypatch: pytest.MonkeyPatch,
    pixels: Pixels,
    options: Options,
    device: torch.device,
    areas: Areas | None = None,
    tile: int = 0,
) -> Run:
    """Return a run of one scale and two styles, with the network and all targets moved to a device.

    The targets and the candidates of a scale are computed once, on the CPU here, since eigenvalues and the weight of
    the content need values.
    """
    styles: tuple[Input, ...] = (pixels(48, 64, 2), pixels(64, 64, 3))
    cpu = options.replace(device="cpu")
    painter, content = Painter.of(cpu), load_content(pixels(64, 48, 1))
    scales = schedule.build_schedule(cpu, *content.size, painter.features(cpu).min_side)
    run = painter._prepare_run(content, load_styles(styles), cpu, Event(), scales, ResolvedAreas(areas))
    run.ladder.plan, run.ladder.rung = None, Rung(checkpoint=options.checkpoint == "on", tile=tile)
    (scale,) = run.schedule
    run.schedule = (dataclasses.replace(scale, half_size_copies=1 if options.multiscale else 0),)
    matching = run._build_objective(run.schedule[0]).matching
    run.features = run.slim = run.features.select(run.features.layers).to(device)
    if matching:
        move_matching(monkeypatch, matching, run.features, device)
    run.targets |= {key: move(each, device) for key, each in run.targets.items()}
    for key, goal in run.targets.items():
        run.holds[key[1]] = goal.hold
    return run


@pytest.fixture
def refuse_copies(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which no tensor is made of Python's values: a GPU waits for those, unlike for `full`."""

    def refuse(*_values: Any, **_settings: Any) -> Tensor:
        raise AssertionError("values are copied to the GPU")

    def start() -> None:
        for name in ("tensor", "as_tensor", "asarray", "from_numpy"):
            monkeypatch.setattr(torch, name, refuse)

    return start


def record_two_steps(run: Run) -> list[Recorder]:
    """Paint three steps without reading a value, and record the second and the third."""
    recorders, reports = [Recorder(), Recorder()], run.paint()
    with prepare_torch(torch.device("cpu")):  # the meta device has no settings
        next(reports)
        for recorder in recorders:
            with recorder:
                next(reports)
    return recorders


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_nothing_and_repeats_itself(
    monkeypatch: pytest.MonkeyPatch,
    pixels: Pixels,
    refuse_copies: Callable[[], None],
    request: pytest.FixtureRequest,
    name: str,
) -> None:
    """Its operations are deterministic, known to every GPU, and the same, with the same shapes, from step to step."""
    if "backbone" not in CASES[name]:
        request.getfixturevalue("use_tiny")
    settings = {**CASES[name]}
    areas, tile = make_areas() if settings.pop("areas", False) else None, settings.pop("tile", 0)
    run = prepare_run(monkeypatch, pixels, OPTIONS.replace(**settings), META, areas, tile)
    refuse_copies()
    second, third = record_two_steps(run)
    assert {"convolution_backward.default", "addmm.default", "lerp.Scalar"} <= second.names
    assert second.elsewhere == set()
    if areas is None:
        assert second.operations == third.operations
    else:  # regions take turns
        assert sorted(map(str, second.operations)) == sorted(map(str, third.operations))
    assert [each for each in second.names if each.startswith(NOT_DETERMINISTIC)] == []
    assert [each for each in second.names if each.startswith(SYNCHRONIZING)] == []
    assert torch.float64 not in second.dtypes, "Apple's GPUs have no float64"
    assert ("argmax.default" in second.names) == ("brushwork" in settings)


def test_no_operation_reads_a_value_inside(use_tiny: None, pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler on the CPU sees what operations call, such as the gradient of `torch.trace`, which reads its own."""

    def build(*args: Any, **settings: Any) -> Objective:
        return Objective(*args, **{**settings, "newton_schulz": True})  # as on a GPU

    options = OPTIONS.replace(keep_color=0.5, brushwork=50)
    run = prepare_run(monkeypatch, pixels, options, torch.device("cpu"))
    monkeypatch.setattr(run_module, "Objective", build)
    reports = run.paint()
    with prepare_torch(torch.device("cpu")):
        next(reports)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            next(reports)
    names = {event.key for event in profile.key_averages()}
    assert {"aten::convolution_backward", "aten::mm", "aten::lerp"} <= names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


NO_GPU = not torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(NO_GPU, reason="there is no CUDA GPU: waiting and copies are tested on the meta device")


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("distance", ["wasserstein", "gram", "gatys"])
@pytest.mark.parametrize("brushwork", [0, 50])
def test_a_gpu_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, use_tiny: None, pixels: Pixels, precision: str, distance: str, brushwork: float
) -> None:
    gpu = torch.device("cuda", 0)
    options = OPTIONS.replace(precision=precision, distance=distance, keep_color=0.5, brushwork=brushwork)
    run = prepare_run(monkeypatch, pixels, options, gpu)
    with prepare_torch(gpu):
        reports = run.paint()
        next(reports)  # loads kernels and chooses algorithms
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                next(reports)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_paints_the_same_pixels_again(use_tiny: None, pixels: Pixels, precision: str) -> None:
    options = OPTIONS.replace(device="cuda", precision=precision, optimizer="mixed", size=128, brushwork=100)
    first, second = (Painter.of(options).stylize(pixels(64, 48, 1), pixels(48, 64, 2), options) for _ in range(2))
    assert first.device == "cuda:0"
    assert (first.pixels == second.pixels).all()
