"""Choose the precision of the convolutions: the fastest one on this machine whose gradient is that of float32.

What is fastest cannot be told from names and flags, so it is measured: `auto` times two convolutions of the network
for about a tenth of a second, compares the gradient of one small painting, and keeps the figures in the user's cache.
They belong to a processor, a version of PyTorch and a number of threads; another machine measures for itself.
"""

import hashlib
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from styler import environment, images, library
from styler.engine import targets
from styler.engine.device import PRECISIONS, prepare_torch
from styler.engine.sources import SourceImage, load_source
from styler.engine.styles import StyleCache, prepare_blend
from styler.errors import OutputError
from styler.geometry import fit_size
from styler.objective.terms import Objective
from styler.options import Options
from styler.resample import resize
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import EMBEDDED, Weights

SINGLE = "fp32"
CLEAR_WIN = 0.9
"""Largest share of float32's time for which its exactness is given up, and of bfloat16's for float16."""
MIN_COSINE = 0.999
"""Smallest cosine of a gradient with that of float32."""
HOPELESS = 4.0
"""Slowdown in a very small convolution above which no larger one is timed: emulation can be a hundred times slower."""
TIMED_SECONDS = 0.1
MIN_ROUNDS, MAX_ROUNDS = 3, 20

BLOCKS = ((256, 4), (512, 8))
"""Channels and stride of the third and the fourth block of a VGG, which take most of the time."""
TIMED_SIDE = {"cpu": 128}
"""Side in pixels of the image whose maps are convolved, by type of device; `GPU_SIDE` for the others."""
GPU_SIDE = 512
"""Smaller maps do not keep a GPU busy."""
TRIAL_SIDE = 16
"""Side of the image of the very small convolution."""
GRADIENT_SIDE = 128
"""Long side in pixels of the painting whose gradients are compared."""
GRADIENT_PAIR = ("astronaut", "starry-night")
"""The bundled photo and painting of that painting."""

CPU_FACTS = {
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU variant", "CPU part", "Features"),
}
"""Lines of /proc/cpuinfo, on x86 and ARM, that say what a processor can do."""
FLOAT16_FLAGS = {"avx512_fp16", "amx_fp16"}
"""Instructions without which a CPU only emulates float16."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured, by the name of the precision."""

    seconds: Mapping[str, float]
    """Time of the convolutions, forward and backward; an estimate where a very small one was hopeless."""
    cosines: Mapping[str, float] = field(default_factory=dict)
    """Cosine of the gradient with that of float32, for those that were fast enough."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why a precision cannot be used."""

    @property
    def choice(self) -> str:
        """The fastest precision, unless its gradient is too far from that of float32."""
        best = SINGLE
        for name in PRECISIONS:  # in this order: of two that are about as fast, the first is taken
            if name in self.seconds and self.cosines.get(name, 1.0) >= MIN_COSINE:
                best = name if self.seconds[name] <= CLEAR_WIN * self.seconds[best] else best
        return best

    @property
    def is_complete(self) -> bool:
        """Whether the gradient of the choice was compared."""
        return self.choice == SINGLE or self.choice in self.cosines

    def describe(self) -> str:
        """Return the figures as a clause: `convolutions take 28.1 ms in fp32, 14.6 ms in bf16 (cosine 0.99987)`."""
        parts = []
        for name, seconds in self.seconds.items():
            cosine = f" (cosine {self.cosines[name]:.5f})" if name in self.cosines else ""
            parts.append(f"{1e3 * seconds:.3g} ms in {name}{cosine}")
        parts += [f"{name} cannot be used ({reason})" for name, reason in self.failures.items()]
        return f"convolutions take {', '.join(parts)}"


class PrecisionChoice:
    """The precision of a painter: chosen when it is first needed, kept from then on.

    Args:
        device: where the network runs.
        name: a key of `PRECISIONS`, or `auto` to measure.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        self._device = device
        self._dtype = PRECISIONS.get(name)
        self.measurement: Measurement | None = None
        """What `auto` was chosen by."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the convolutions."""
        if self._dtype is None:  # of two threads, the second gets what the first has measured
            with prepare_torch(self._device):
                self.measurement = measure_precision(self._device)
            self._dtype = PRECISIONS[self.measurement.choice]
        return self._dtype


_measurements: dict[str, Measurement] = {}
_measuring = threading.Lock()
"""Two measurements at once would disturb each other."""


def measure_precision(device: torch.device) -> Measurement:
    """Return what was measured on this machine, in this process or earlier; measure if nothing was.

    The answer depends on PyTorch's number of threads. It is stored as JSON in the folder `find_measurement_file` names;
    a file that is damaged counts as missing, and nothing is stored where the folder cannot be written.
    """
    machine = describe_machine(device)
    key = json.dumps(machine, sort_keys=True)
    with _measuring:
        if key not in _measurements:
            measurement = read_measurement(machine)
            if measurement is None:
                measurement = run_measurement(device)
                if not measurement.failures:
                    write_measurement(machine, measurement)
            _measurements[key] = measurement
        return _measurements[key]


def run_measurement(device: torch.device) -> Measurement:
    """Time the convolutions on a device and compare the gradients, whatever is stored."""
    workload = ConvolutionWorkload(device)
    compare = GradientComparison(device)
    return compare_precisions(list_candidates(device), workload, compare)


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Return what the speed of a precision depends on: processor, versions, and on a CPU the number of threads."""
    facts: dict[str, str | int] = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return facts | {
            "processor": torch.cuda.get_device_name(device),
            "capability": f"{major}.{minor}",
            "cuda": torch.version.cuda or torch.version.hip or "",
            "cudnn": _find_cudnn_version(),
            "driver": _read_first_line(Path("/proc/driver/nvidia/version")),
        }
    if device.type == "mps":
        return facts | {"processor": torch.backends.mps.get_name(), "system": platform.platform()}
    cpu = _read_cpu_facts()
    return facts | {
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "capabilities": hashlib.sha256(json.dumps(cpu, sort_keys=True).encode()).hexdigest(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # fewer than the processor's if the user limits them
        "limit": os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")),
        "threads": torch.get_num_threads(),
    }


def _find_cudnn_version() -> int:
    find: Callable[[], int | None] = torch.backends.cudnn.version
    return find() or 0


def _read_first_line(file: Path) -> str:
    """Return the first line of a file of the system, empty where there is no such file."""
    with suppress(OSError, ValueError), file.open() as stream:
        return stream.readline().strip()
    return ""


def _read_cpu_facts() -> dict[str, str]:
    """Return the facts about the first processor in /proc/cpuinfo; empty on other systems."""
    facts: dict[str, str] = {}
    with suppress(OSError, ValueError), Path("/proc/cpuinfo").open() as stream:
        for line in stream:
            name, _, value = line.partition(":")
            if not name.strip():
                break
            if name.strip() in CPU_FACTS:
                facts[name.strip()] = value.strip()
    return facts


def list_candidates(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that may be faster than float32 on a device."""
    if device.type == "cuda":
        return ("bf16", "fp16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16",)
    if device.type == "mps":
        return ("fp16",)
    has_float16 = FLOAT16_FLAGS & {*_read_cpu_facts().get("flags", "").split()}
    return ("bf16", "fp16") if has_float16 else ("bf16",)


class Workload(Protocol):
    """Something to be timed in each precision."""

    def run(self, name: str) -> None:
        """Do the work in a precision, and wait for the device."""

    def run_trial(self, name: str) -> None:
        """Do so little of it that even a hopeless precision takes no time worth mentioning."""


def compare_precisions(
    candidates: Iterable[str],
    workload: Workload,
    compare: Callable[[str], float],
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Time the candidates beside float32, and compare the gradients of those that would be chosen.

    Args:
        candidates: names of precisions.
        workload: what is timed.
        compare: returns the cosine of the gradient in a precision with that in float32.
        clock: returns seconds.
    """
    failures: dict[str, str] = {}
    slowdowns: dict[str, float] = {}
    trial = min(_time(workload.run_trial, SINGLE, clock) for _ in range(2))
    for name in candidates:
        try:
            slowdown = _time(workload.run_trial, name, clock) / trial
            if slowdown > HOPELESS:  # the first call prepares things
                slowdown = _time(workload.run_trial, name, clock) / trial
        except RuntimeError as error:  # reported with the choice
            failures[name] = _summarize_error(error)
        else:
            slowdowns[name] = slowdown
    seconds = _time_rounds([SINGLE, *(name for name in slowdowns if slowdowns[name] <= HOPELESS)], workload, clock)
    seconds |= {name: seconds[SINGLE] * slowdown for name, slowdown in slowdowns.items() if slowdown > HOPELESS}
    cosines: dict[str, float] = {}
    measurement = Measurement(seconds, cosines, failures)
    while not measurement.is_complete:
        name = measurement.choice
        try:
            cosines[name] = compare(name)
        except (RuntimeError, MemoryError) as error:  # reported with the choice
            cosines[name], failures[name] = 0.0, _summarize_error(error)
    return measurement


def _time(work: Callable[[str], None], name: str, clock: Callable[[], float]) -> float:
    start = clock()
    work(name)
    return clock() - start


def _summarize_error(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _time_rounds(names: list[str], workload: Workload, clock: Callable[[], float]) -> dict[str, float]:
    """Return the best time of each precision, of rounds in alternating order: other programs disturb all alike."""
    if len(names) == 1:
        return {names[0]: min(_time(workload.run, names[0], clock) for _ in range(2))}
    best: dict[str, float] = {}
    start, rounds = clock(), 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and clock() - start < TIMED_SECONDS):
        for name in names if rounds % 2 else reversed(names):
            best[name] = min(_time(workload.run, name, clock), best.get(name, math.inf))
        rounds += 1
    return {name: best[name] for name in names}


class ConvolutionWorkload:
    """One convolution each of the third and the fourth block, forward and backward to its input, as when painting."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cases: dict[tuple[str, int], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def run(self, name: str) -> None:
        """Do the work in a precision, and wait for the device."""
        self._convolve(name, TIMED_SIDE.get(self._device.type, GPU_SIDE))

    def run_trial(self, name: str) -> None:
        """Convolve maps of a few positions."""
        self._convolve(name, TRIAL_SIDE)

    def _convolve(self, name: str, side: int) -> None:
        for source, kernel, gradient in self._make_cases(name, side):
            output = F.conv2d(source, kernel, padding=1)  # (1, C, H, W)
            torch.autograd.grad(output, source, gradient)
        _wait_for(self._device)

    def _make_cases(self, name: str, side: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return map, kernel and gradient of each convolution; random, since no time depends on the values."""
        if (name, side) not in self._cases:
            generator = torch.Generator().manual_seed(0)

            def make(*shape: int) -> Tensor:
                values = torch.randn(shape, generator=generator, dtype=torch.float32)
                values = values.to(self._device, PRECISIONS[name])
                return values.contiguous(memory_format=torch.channels_last)

            shapes = [(channels, side // stride) for channels, stride in BLOCKS]
            self._cases[name, side] = [
                (make(1, width, at, at).requires_grad_(), make(width, width, 3, 3), make(1, width, at, at))
                for width, at in shapes
            ]
            _wait_for(self._device)
        return self._cases[name, side]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class GradientComparison:
    """Compares the gradient of the whole objective, at the photo itself, with the one in float32."""

    def __init__(self, device: torch.device, side: int = GRADIENT_SIDE, pair: tuple[str, str] = GRADIENT_PAIR) -> None:
        self._device, self._side, self._pair = device, side, pair

    @cached_property
    def _single(self) -> Tensor:
        return self._compute_gradient(SINGLE)

    @cached_property
    def _weights(self) -> Weights:
        return registry.load_backbone(EMBEDDED)

    @cached_property
    def _sources(self) -> list[SourceImage]:
        """The photo and the painting."""
        folders = (library.list_contents(), library.list_styles())
        return [load_source(folder[name]) for folder, name in zip(folders, self._pair, strict=True)]

    def __call__(self, name: str) -> float:
        """Return the cosine in float64; 0 if a value is not finite."""
        cosine = float(F.cosine_similarity(self._single, self._compute_gradient(name), dim=0))
        return cosine if math.isfinite(cosine) else 0.0

    def _compute_gradient(self, name: str) -> Tensor:
        """Return the gradient in a precision with the embedded network, (3 · H · W,), in float64 on the CPU."""
        options, (content, style) = Options(), self._sources
        layers = targets.resolve_layers(options, self._weights.network)
        features = Features(self._weights, layers, options.pooling, PRECISIONS[name]).to(self._device)
        size = fit_size(*content.size, self._side)
        blend = prepare_blend(content, [style], options)
        aims = targets.compute_targets(features, content, blend, size, options, StyleCache())
        objective = Objective(
            features,
            aims,
            targets.compute_term_weights(options, features.network),
            newton_schulz=self._device.type != "cpu",
        )
        _, gradient = objective.gradient(resize(content.image, *size).to(self._device))
        return gradient.cpu().double().flatten()


def find_measurement_file(machine: Mapping[str, str | int]) -> Path | None:
    """Return the file with the measurement of a machine, which need not exist; None without a cache folder."""
    cache = environment.find_cache_folder()
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()
    return cache and cache / "precision" / f"{digest[:32]}.json"


def read_measurement(machine: Mapping[str, str | int]) -> Measurement | None:
    """Return the stored measurement of a machine; None if it is missing or damaged."""
    file = find_measurement_file(machine)
    if file is None:
        return None
    try:
        stored = json.loads(file.read_bytes())
        if stored["machine"] != machine:
            return None
        seconds, cosines = _read_numbers(stored["seconds"]), _read_numbers(stored["cosines"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    measurement = Measurement(seconds, cosines)
    is_sound = SINGLE in seconds and min(seconds.values()) > 0 and {*seconds} <= {*PRECISIONS}
    return measurement if is_sound and measurement.is_complete else None


def _read_numbers(stored: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in stored.items()}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError("not finite")
    return numbers


def write_measurement(machine: Mapping[str, str | int], measurement: Measurement) -> None:
    """Store the measurement of a machine, unless there is no folder that can be written."""
    facts = {"machine": machine, "seconds": measurement.seconds, "cosines": measurement.cosines}
    if file := find_measurement_file(machine):
        with suppress(OutputError):  # it is measured again next time
            images.write_file(file, json.dumps(facts, indent=1).encode(), overwrite=True)
