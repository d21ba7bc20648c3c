"""The device, its precision and its memory: what fits, and what to do when it does not.

Does not know what is computed on the device.
"""

import gc
import math
import re
from pathlib import Path

import psutil
import torch

from styler import environment
from styler.errors import DeviceError, OutOfMemory
from styler.vgg import arch
from styler.vgg.model import Features

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Files with the memory limit and usage of this process's control group, for versions 2 and 1."""

ACTIVATION_OVERHEAD = 1.15
"""Measured peak divided by the estimate of the activations: convolutions need workspaces, allocators round up."""
FIXED_BYTES = 300e6
"""Network, statistics, eigenvalues and the rest, whatever the size of the picture."""
USABLE_SHARE = 0.9
"""Share of the free memory that may be used."""
AMPLE_FACTOR = 2.0
"""Free memory divided by the estimate above which freed memory is kept: fragmentation was measured at up to 1.4 times
the estimate."""


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


def choose_precision(device: torch.device, name: str) -> torch.dtype:
    """Return the precision of convolutions; `auto` is bfloat16 on GPUs if supported, else float16; float32 on CPUs."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def measure_free_memory(device: torch.device) -> int:
    """Return the bytes available on the device; on the CPU, to the control group of this process."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free = psutil.virtual_memory().available
    for limit, used in CGROUP_LIMITS:
        if Path(limit).is_file() and (text := Path(limit).read_text().strip()).isdigit():
            free = min(free, int(text) - int(Path(used).read_text()))
    return int(free)


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


def prepare_device(device: torch.device) -> None:
    """Apply process settings that make the device faster without changing any result."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the few sizes of a schedule repeat many times


def estimate_memory(features: Features, size: tuple[int, int], *, checkpoint: bool) -> float:
    """Return the peak memory in bytes of one iteration at `size` (width, height)."""
    pixels = size[0] * size[1]
    activations = arch.estimate_activation_bytes(
        features.network, features.layers, pixels, checkpoint=checkpoint, widths=features.widths
    )
    half = 1.0 if features.precision is torch.float32 else 0.75  # statistics and losses stay in float32
    return FIXED_BYTES + ACTIVATION_OVERHEAD * half * activations


def needs_checkpoint(features: Features, size: tuple[int, int], setting: str, device: torch.device) -> bool:
    """Return whether to use activation checkpointing: as the setting says, or for `auto` if memory requires it.

    Args:
        features: the network.
        size: width and height.
        setting: `on`, `off` or `auto`.
        device: where the network runs.

    Raises:
        OutOfMemory: the picture does not fit either way; the message names the size that would.
    """
    free, needed = USABLE_SHARE * measure_free_memory(device), estimate_memory(features, size, checkpoint=False)
    if needed > free:  # memory kept from earlier pictures does not count as free
        release_memory(device)
        free = USABLE_SHARE * measure_free_memory(device)
    if setting != "on" and needed <= free:
        return False
    if setting != "off" and estimate_memory(features, size, checkpoint=True) <= free:
        return True
    raise OutOfMemory(advise_smaller(features, size, device, checkpoint=setting != "off"))


def has_ample_memory(features: Features, size: tuple[int, int], device: torch.device) -> bool:
    """Return whether there is room to keep freed memory between two iterations."""
    needed = AMPLE_FACTOR * estimate_memory(features, size, checkpoint=False)
    return needed <= USABLE_SHARE * measure_free_memory(device)


def find_largest_side(
    features: Features, size: tuple[int, int], device: torch.device, *, checkpoint: bool = True
) -> int:
    """Return the largest long side, in steps of 32 pixels, of a picture with the proportions of `size` that fits."""
    free = USABLE_SHARE * measure_free_memory(device) - FIXED_BYTES
    needed = estimate_memory(features, size, checkpoint=checkpoint) - FIXED_BYTES
    return max(0, int(max(size) * math.sqrt(max(0.0, free) / needed)) // 32 * 32)


def advise_smaller(features: Features, size: tuple[int, int], device: torch.device, *, checkpoint: bool = True) -> str:
    """Return the message for a picture that does not fit.

    The size it names is well below the one that failed, even if memory has become free again.
    """
    needed = estimate_memory(features, size, checkpoint=checkpoint)
    side = min(find_largest_side(features, size, device, checkpoint=checkpoint), max(size) * 3 // 4 // 32 * 32)
    advice = f"use --size {side}" if side >= 64 else "close other programs"
    alternative = "" if checkpoint else ", or use --checkpoint auto"
    return (
        f"A picture of {size[0]}×{size[1]} needs about {needed / 1e9:.1f} GB, but {device} has "
        f"{measure_free_memory(device) / 1e9:.1f} GB free; {advice}{alternative}."
    )
