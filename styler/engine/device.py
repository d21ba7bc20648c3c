"""The device and its precision, and PyTorch's settings for a step.

Does not know how a picture is painted.
"""

import os
import re
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

import torch

from styler.errors import DeviceError, UsageError
from styler.options import PRECISION_NAMES, Options

Item = TypeVar("Item")
Returned = TypeVar("Returned")
CPU = torch.device("cpu")
PRECISIONS: dict[str, torch.dtype] = {name: getattr(torch, dtype) for dtype, name in PRECISION_NAMES.items()}


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


def describe_device(device: torch.device) -> str:
    """Return the device with its product name, such as `cuda:0 (NVIDIA H100)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def name_processor(device: torch.device) -> str:
    """Return the CPU's instruction set, such as `AVX2`, or the GPU's name: the pixels depend on it, too."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.mps.get_name() if device.type == "mps" else torch.backends.cpu.get_cpu_capability()


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


class _ThreadNumber:
    """The number of PyTorch's CPU threads, which each Python thread has for itself, while others have another.

    A thread that has not used PyTorch begins with the number that was set last, by whatever thread. That number may be
    one that another painting has for a moment, with which the last bits would differ.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes = 0  # threads that have another number for now
        self._usual = 0  # the number before the first of them
        self._known = threading.local()

    @contextmanager
    def change(self, threads: int) -> Iterator[None]:
        """Let this thread have a number inside the block, 0 for its own."""
        with self._lock:
            if self._changes and not hasattr(self._known, "thread"):
                torch.set_num_threads(self._usual)
            self._known.thread, before = True, torch.get_num_threads()
            is_changed = threads not in (0, before)
            if is_changed:
                self._usual = self._usual if self._changes else before
                self._changes += 1
                torch.set_num_threads(threads)
        try:
            yield
        finally:
            if is_changed:
                with self._lock:
                    self._changes -= 1
                    torch.set_num_threads(before)


_exact_arithmetic = _ExactArithmetic()
_thread_number = _ThreadNumber()
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
    _check_process(device, threads or torch.get_num_threads())
    with ExitStack() as settings:
        settings.enter_context(_thread_number.change(threads))
        settings.enter_context(torch.inference_mode(mode=False))
        settings.enter_context(torch.enable_grad())
        for kind in {device.type, "cpu"}:
            settings.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != CPU:
            settings.enter_context(CPU)
        settings.enter_context(_exact_arithmetic)
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
