"""Free memory: of GPUs, and on CPUs what the machine, control groups and limits leave this process."""

import gc
import math
import sys
from pathlib import Path

import psutil
import torch

from styler import environment
from styler.options import Options

CGROUP_FOLDER, CGROUP_MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CGROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By version: the files with the limit and the usage of a control group, and the name of its reclaimable cache."""
USABLE_SHARE = 0.9
"""Share of the free memory that may be used."""


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


def keep_freed_memory(device: torch.device, keep: bool, *, is_scarce: bool = False) -> None:
    """Set whether the allocator keeps freed memory; on GPUs, PyTorch's own cache always does.

    Args:
        device: where the work is done.
        keep: whether there is much more memory than needed.
        is_scarce: whether there is so little that nearly all of it is returned at once.
    """
    if device.type == "cpu":
        environment.keep_memory(keep, is_scarce=is_scarce)


def measure_usable_memory(device: torch.device, options: Options) -> float:
    """Return the bytes that a painting may use: what the option says, or else a share of what is free."""
    return options.memory or USABLE_SHARE * measure_free_memory(device)
