"""The device, its precision and its memory: what fits, and what to do when it does not; PyTorch's settings for a step.

Does not know how a picture is painted.
"""

import bisect
import gc
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from styler import environment
from styler.engine import optimizers, targets
from styler.engine.styles import TILE_SIDE, compute_style_size
from styler.errors import DeviceError, OutOfMemory, UsageError
from styler.geometry import fit_size
from styler.objective.candidates import CODE_LENGTH, STORED_TYPE
from styler.options import PRECISION_NAMES, Options
from styler.vgg import arch
from styler.vgg.model import Features

Item = TypeVar("Item")
Returned = TypeVar("Returned")
CPU = torch.device("cpu")
PRECISIONS: dict[str, torch.dtype] = {name: getattr(torch, dtype) for dtype, name in PRECISION_NAMES.items()}

CGROUP_FOLDER, CGROUP_MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CGROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By version: the files with the limit and the usage of a control group, and the name of its reclaimable cache."""

ACTIVATION_OVERHEAD = 1.15
"""Measured peak divided by the estimate of the activations: convolutions need workspaces, allocators round up."""
FIXED_BYTES = 300e6
"""Network, statistics, eigenvalues and the rest, whatever the size of the picture."""
IMAGE_BYTES = 12
"""Bytes of a pixel of an image, (1, 3, H, W) in float32."""
OPTIMIZER_IMAGES = {"adam": 12, "mixed": 12, "lbfgs": 2 * optimizers.LBFGS_HISTORY + 12}
"""Images of the final size that the optimizer holds; of `mixed`, only the small first scale is painted by L-BFGS."""
STYLE_IMAGES = 5
"""Images of the size of an analyzed style that are held while it is resized and its roughness is measured."""
USABLE_SHARE = 0.9
"""Share of the free memory that may be used."""
AMPLE_FACTOR = 2.0
"""Usable memory divided by the estimate above which freed memory is kept: fragmentation was measured at up to 1.4
times the estimate."""


def choose_device(name: str) -> torch.device:
    """Return the device with a name; `auto` is CUDA if available, else MPS, else the CPU.

    Raises:
        DeviceError: it is unknown or not available; there is no silent fallback.
    """
    if name.strip().lower() == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.strip().lower().partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and (kind != "cuda" or not re.fullmatch("[0-9]+", index))):
        raise DeviceError(f"There is no device '{name}'; it can be auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("No CUDA GPU is available; use --device cpu, or install PyTorch with CUDA and its driver.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"There is no GPU {index}; this machine has {torch.cuda.device_count()}, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("No Apple GPU is available; use --device cpu.")
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device(kind)


def name_precision(precision: torch.dtype) -> str:
    """Return the name of a precision as an option, such as `bf16`."""
    return PRECISION_NAMES[str(precision).removeprefix("torch.")]


def check_device(options: Options, device: torch.device, precision: torch.dtype) -> None:
    """Check that the options do not ask for another device or precision than a painter has.

    Raises:
        UsageError: they do.
        DeviceError: they name a device that does not exist.
    """
    wanted_device = device if options.device == "auto" else choose_device(options.device)
    wanted = PRECISIONS.get(options.precision, precision)  # a painter has what `auto` has chosen
    if (wanted_device, wanted) != (device, precision):
        ours, theirs = (
            f"{on} in {str(dtype).removeprefix('torch.')}"
            for on, dtype in ((device, precision), (wanted_device, wanted))
        )
        raise UsageError(
            f"This painter works on {ours}, but the options ask for {theirs}; make another by `Painter.of(options)`, "
            "or leave device and precision at auto."
        )


def measure_free_memory(device: torch.device) -> int:
    """Return the bytes available on the device; on the CPU, to this process within its limits."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    limits = (psutil.virtual_memory().available, _measure_free_in_cgroups(), _measure_free_in_process())
    return int(max(0, min(limits)))


def _measure_free_in_cgroups() -> float:
    """Return what the control groups of this process have left: its own and all around it.

    Pages of files that were read and are not in use count as free: the system drops them before it runs out.
    """
    try:
        lines = CGROUP_MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    free = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, version = (CGROUP_FOLDER / "memory", 1) if controllers else (CGROUP_FOLDER, 2)
        folder = root / path.strip("/")
        if ".." in folder.parts or not folder.is_dir():  # in a container, whose group is mounted as the root
            folder = root
        while True:
            free = min(free, _measure_free_in_cgroup(folder, version))
            if folder == root:
                break
            folder = folder.parent
    return free


def _measure_free_in_cgroup(folder: Path, version: int) -> float:
    limit_file, usage_file, cache_name = CGROUP_FILES[version]
    try:
        limit, usage = (int((folder / name).read_text()) for name in (limit_file, usage_file))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit, which version 2 calls `max`, or not mounted
        return math.inf
    return limit - (usage - int(statistics.get(cache_name, 0)))


def _measure_free_in_process() -> float:
    """Return what the limits of the process (`ulimit -v` and `-d`) leave of its address space and its data."""
    if sys.platform == "win32":
        return math.inf
    import resource

    used = psutil.Process().memory_info()
    free = math.inf
    for kind, amount in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", 0))):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, limit - amount)
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; on CPUs and MPS PyTorch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def release_memory(device: torch.device) -> None:
    """Return cached memory to the system, before or after it has run out."""
    gc.collect()
    environment.return_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def keep_freed_memory(device: torch.device, keep: bool) -> None:
    """Set whether the allocator keeps freed memory; on GPUs, PyTorch's own cache always does."""
    if device.type == "cpu":
        environment.keep_memory(keep)


def describe_device(device: torch.device) -> str:
    """Return the device with its product name, such as `cuda:0 (NVIDIA H100)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def name_processor(device: torch.device) -> str:
    """Return the CPU's instruction set, such as `AVX2`, or the GPU's name: the pixels depend on it, too."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.mps.get_name() if device.type == "mps" else torch.backends.cpu.get_cpu_capability()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a painting fits into memory."""

    needed: float
    """Estimated peak, in bytes."""
    usable: float
    """Bytes that may be used: `options.memory`, or else the usable share of what is free."""
    checkpoint: bool
    """Whether to use activation checkpointing."""

    @property
    def is_ample(self) -> bool:
        """Whether there is room to keep freed memory between two iterations."""
        return not self.checkpoint and AMPLE_FACTOR * self.needed <= self.usable


def plan_memory(
    features: Features, size: tuple[int, int], styles: Sequence[tuple[int, int]], options: Options
) -> MemoryPlan:
    """Return whether a painting needs checkpointing: as the option says, or for `auto` if memory requires it.

    Args:
        features: the network, on its device.
        size: width and height of the result.
        styles: width and height of each style.
        options: checkpoint, memory and whatever the estimate depends on are read.

    Raises:
        OutOfMemory: the picture does not fit either way; the message names what would.
    """
    estimate = partial(estimate_memory, features, size, styles, options)
    usable = measure_usable_memory(features.device, options)
    if estimate(checkpoint=False) > usable:  # memory kept from earlier pictures does not count as free
        release_memory(features.device)
        usable = measure_usable_memory(features.device, options)
    for checkpoint in {"off": (False,), "auto": (False, True), "on": (True,)}[options.checkpoint]:
        if (needed := estimate(checkpoint=checkpoint)) <= usable:
            return MemoryPlan(needed, usable, checkpoint)
    raise OutOfMemory(advise_smaller(features, size, styles, options))


def measure_usable_memory(device: torch.device, options: Options) -> float:
    """Return the bytes that a painting may use: what the option says, or else a share of what is free."""
    return options.memory or USABLE_SHARE * measure_free_memory(device)


def estimate_memory(
    features: Features, size: tuple[int, int], styles: Sequence[tuple[int, int]], options: Options, *, checkpoint: bool
) -> float:
    """Return the peak memory in bytes of a painting; the largest of an iteration and of the analysis of the styles.

    Half-size copies are evaluated after the full size, in less memory; only their content targets stay. While a style
    is analyzed, the content's features at the same scale are held. The styles are analyzed once more for matching.

    Args:
        features: the network.
        size: width and height of the result.
        styles: width and height of each style.
        options: layers, stroke size, brushwork, optimizer and kept color are read.
        checkpoint: whether activations are recomputed.
    """
    pixels = size[0] * size[1]
    network, layers, widths = features.network, features.layers, features.widths
    half = 1.0 if features.precision is torch.float32 else 0.6  # maps of two bytes, statistics in float32
    content = arch.estimate_map_bytes(network, targets.resolve_content_layers(options, network), pixels, widths)
    activations = arch.estimate_activation_bytes(network, layers, pixels, checkpoint=checkpoint, widths=widths)
    iteration = half * ACTIVATION_OVERHEAD * (activations + 4 / 3 * content)
    iteration += IMAGE_BYTES * OPTIMIZER_IMAGES[options.optimizer] * pixels
    analyses = [compute_style_size(one, max(size), options.stroke_size, features.min_side) for one in styles]
    matching = _estimate_matching(
        features, pixels, [math.prod(min(side, max(size)) for side in sides) for sides in analyses], options
    )
    analysis, longest_tile = matching.preparation, TILE_SIDE + 2 * features.margin
    for analyzed in analyses:
        tile = math.prod(min(side, longest_tile) for side in analyzed)
        maps = arch.estimate_map_bytes(network, layers, pixels, widths)
        maps += arch.estimate_forward_bytes(network, layers, tile, widths)
        image = IMAGE_BYTES * STYLE_IMAGES * math.prod(analyzed)
        analysis = max(analysis, half * ACTIVATION_OVERHEAD * maps + image)
    recolored = sum(IMAGE_BYTES * math.prod(style) for style in styles) if options.keep_color else 0
    return FIXED_BYTES + max(iteration + matching.held, analysis) + recolored


@dataclass(frozen=True, slots=True)
class _MatchingMemory:
    """The memory of matched features, in bytes."""

    preparation: float = 0.0
    """Needed when a scale begins."""
    held: float = 0.0
    """Needed by an iteration besides what it needs without them."""


def _estimate_matching(features: Features, pixels: int, styles: Sequence[int], options: Options) -> _MatchingMemory:
    """Estimate the memory of matched features for `pixels` of the picture and those of each style as analyzed.

    Held are the maps and the columns of the styles' views, and of the picture the maps of the content, the targets and
    their gradients, two sets of columns, and what is gathered of the largest layer, twice in float32.
    """
    network, widths = features.network, features.widths
    layers = targets.resolve_matched_layers(options, network)
    if not layers or not styles:
        return _MatchingMemory()
    value_bytes = 4 if features.precision is torch.float32 else 2
    convs = [conv for conv in arch.list_convolutions_until(network, layers, widths) if conv.layer in layers]
    base = arch.find_nearest_layer(targets.BASE_LAYER, network)
    density = next(1 / conv.stride**2 for conv in convs if conv.layer == base)  # columns per pixel
    viewed, width = targets.MATCHED_VIEWS * sum(styles), sum(conv.outputs for conv in convs)
    candidates = min(targets.MAX_CANDIDATES, density * viewed)
    maps = value_bytes / 4 * arch.estimate_map_bytes(network, layers, 1, widths)  # per pixel
    stored = maps * STORED_TYPE.itemsize / value_bytes
    largest = max(conv.outputs / conv.stride**2 for conv in convs)  # values per pixel
    columns = candidates * (STORED_TYPE.itemsize * width + value_bytes * CODE_LENGTH)
    forward = value_bytes / 4 * arch.estimate_forward_bytes(network, layers, max(styles), widths)
    return _MatchingMemory(
        preparation=(maps + stored) * viewed
        + ACTIVATION_OVERHEAD * forward
        + columns
        + 8 * width * density * max(styles),
        held=(3 * maps + 2 * STORED_TYPE.itemsize * width * density + (8 + STORED_TYPE.itemsize) * largest) * pixels
        + stored * viewed
        + columns,
    )


def find_largest_side(
    features: Features, size: tuple[int, int], styles: Sequence[tuple[int, int]], options: Options, usable: float
) -> int:
    """Return the largest long side, in steps of 32 pixels, of a picture with the proportions of `size` that fits."""
    checkpoint = options.checkpoint != "off"

    def fits(steps: int) -> bool:
        scaled = fit_size(*size, 32 * steps)
        return estimate_memory(features, scaled, styles, options, checkpoint=checkpoint) <= usable

    return 32 * _find_last(fits, max(size) // 32)


def _find_last(fits: Callable[[int], bool], highest: int) -> int:
    """Return the highest number up to `highest` that fits, if all lower ones do; 0 if none does."""
    return bisect.bisect_left(range(1, highest + 1), True, key=lambda number: not fits(number))


def advise_smaller(
    features: Features, size: tuple[int, int], styles: Sequence[tuple[int, int]], options: Options
) -> str:
    """Return the message for a picture that does not fit.

    The size it names is well below the one that failed, even if memory has become free again.
    """
    usable = measure_usable_memory(features.device, options)
    estimate = partial(estimate_memory, features, size, styles, checkpoint=options.checkpoint != "off")
    side = min(find_largest_side(features, size, styles, options, usable), max(size) * 3 // 4 // 32 * 32)
    advice = [f"use --size {side}" if side >= 64 else "close other programs"]
    strokes = _find_last(lambda step: estimate(options.replace(stroke_size=step / 4)) <= usable, 15) / 4
    if 1 <= strokes < options.stroke_size:
        advice.append(f"--stroke-size {strokes:g}")
    if options.checkpoint == "off":
        advice.append("use --checkpoint auto")
    if not options.memory:
        advice.append("give --memory if more can be used")
    room = (
        f"--memory allows {usable / 1e9:.1f} GB"
        if options.memory
        else f"{features.device} has {usable / 1e9:.1f} GB to spare"
    )
    return (
        f"A picture of {size[0]}×{size[1]} needs about {estimate(options) / 1e9:.1f} GB, but {room}; "
        f"{', or '.join(advice)}."
    )


class _ExactArithmetic:
    """A context in which cuDNN chooses deterministic algorithms, not those that are fastest, and products are exact.

    The flags belong to the process, and several threads may paint: the first sets them, the last restores them.
    Statistics have to be in full float32, even where the caller allows matrix products in TF32 or bfloat16; on CPUs,
    some of their products are computed as convolutions.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        backends: Any = torch.backends
        owners = (
            (backends.mkldnn, "matmul"),
            (backends.mkldnn, "conv"),
            (backends.cudnn, "conv"),
            (backends.cuda, "matmul"),
        )
        products = [getattr(owner, name, None) for owner, name in owners]
        wanted: list[tuple[Any, str, Any]] = [
            (backends.cudnn, "benchmark", False),
            (backends.cudnn, "deterministic", True),
        ]
        wanted += [(each, "fp32_precision", "ieee") for each in products if hasattr(each, "fp32_precision")]
        with self._lock:
            if not self._users:
                self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
                self._set(wanted)
            self._users += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._set(self._before)

    @staticmethod
    def _set(flags: list[tuple[Any, str, Any]]) -> None:
        for owner, name, value in flags:
            setattr(owner, name, value)


_exact_arithmetic = _ExactArithmetic()
_helpers = threading.local()
"""`process`: the id of the process in which this thread has started OpenMP helper threads. A forked process inherits
this id, but not the helpers."""


@contextmanager
def prepare_torch(device: torch.device, threads: int = 0) -> Iterator[None]:
    """Configure PyTorch for a step of work, whatever the caller has set, and restore the caller's settings.

    Gradients are on, even in `torch.no_grad()` and `torch.inference_mode()`; autocast is off; new tensors are made on
    the CPU unless a device is named. A generator must not be suspended inside.

    Args:
        device: where the work is done.
        threads: CPU threads; 0 leaves their number unchanged.

    Raises:
        DeviceError: the process was forked from one that has used PyTorch's threads.
    """
    before = torch.get_num_threads()
    _check_process(device, threads or before)
    with ExitStack() as settings:
        settings.enter_context(torch.inference_mode(mode=False))
        settings.enter_context(torch.enable_grad())
        for kind in {device.type, "cpu"}:
            settings.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != CPU:
            settings.enter_context(CPU)
        settings.enter_context(_exact_arithmetic)
        if threads not in (0, before):
            settings.callback(torch.set_num_threads, before)
            torch.set_num_threads(threads)
        yield


def _check_process(device: torch.device, threads: int) -> None:
    """Raise `DeviceError` in a forked process in which PyTorch would wait forever for threads that do not exist."""
    if threads == 1 and device.type == "cpu":
        return
    if getattr(_helpers, "process", os.getpid()) != os.getpid():
        raise DeviceError(
            "This process was forked from one in which styler has already worked, and PyTorch's threads do not survive "
            "a fork; start processes by multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in them."
        )
    _helpers.process = os.getpid()


def isolate_steps(
    steps: Generator[Item, None, Returned], device: torch.device, threads: int = 0
) -> Generator[Item, None, Returned]:
    """Yield the items of a generator, each made inside `prepare_torch`: between two items nothing is changed.

    Returns what the generator returns.
    """
    with closing(steps):
        while True:
            with prepare_torch(device, threads):
                try:
                    item = next(steps)
                except StopIteration as end:
                    returned: Returned = end.value
                    return returned
            yield item
