"""Which device computes, in which precision, and how much memory it has.

Does not know what is computed there.
"""

import gc
import re
from pathlib import Path

import psutil
import torch

from styler import environment
from styler.errors import DeviceError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def choose(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        DeviceError: it is unknown or absent; there is no silent fall-back.
    """
    wanted = name.strip().lower()
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = wanted.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and (kind != "cuda" or not re.fullmatch("[0-9]+", index))):
        raise DeviceError(f"There is no device '{name}'; it can be auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "No CUDA GPU can be used here; take --device cpu, or install a PyTorch with CUDA and its driver."
        )
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"There is no GPU {index}; this machine has {torch.cuda.device_count()}, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("No Apple GPU can be used here; take --device cpu.")
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device(kind)


def precision(device: torch.device, name: str) -> torch.dtype:
    """The precision of the convolutions; `auto` is bfloat16 where a GPU has it, else float16, and float32 on CPUs."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken now: of the device, or of the machine and the control group that holds this process."""
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
    """Whether an error of PyTorch means that memory ran out; CPUs and MPS raise a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def release(device: torch.device) -> None:
    """Give cached memory back, before or after it has run out."""
    gc.collect()
    environment.return_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def keep_memory(device: torch.device, keep: bool) -> None:
    """Whether memory that is freed stays at hand; GPUs have PyTorch's own cache, which always does that."""
    if device.type == "cpu":
        environment.keep_memory(keep)


def describe(device: torch.device) -> str:
    """The device as a person knows it, such as `cuda:0 (NVIDIA H100)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def prepare(device: torch.device) -> None:
    """Settings of the process that make the device fast; they change no result."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the few sizes of a plan repeat many times
