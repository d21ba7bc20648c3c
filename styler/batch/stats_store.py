"""Store style statistics on disk, so that another run with the same style does not compute them again.

Knows tensors and files; `engine.targets` knows what the statistics mean. A file that cannot be read counts as missing,
and a store that cannot be written is not used.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from styler import environment, images
from styler.engine.device import describe_device
from styler.engine.losses import Moments
from styler.errors import OutputError

STATS_VERSION = 1
"""Increases when statistics are computed differently."""
MAX_STATS_BYTES = 1_000_000_000
"""Size of a store; the least recently used statistics are deleted first."""
STATS_SUFFIX = ".safetensors"


class DiskStatsStore:
    """Statistics by key, one file each.

    The name of a file also depends on the machine, the device and the number of threads: where these differ, the last
    digits of the statistics can change, and the same seed has to give the same pixels.

    Args:
        folder: where they are; by default in this user's cache. Nothing is stored if there is none.
        max_bytes: size of the store.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_STATS_BYTES) -> None:
        cache = environment.find_cache_folder()
        self.folder = folder or (cache and cache / "statistics")
        self.max_bytes = max_bytes

    def get(self, key: str, device: torch.device) -> Mapping[str, Moments] | None:
        """Return statistics on a device; None if there are none."""
        if self.folder is None:
            return None
        path = self._locate(self.folder, key, device)
        try:
            tensors = load(path.read_bytes())
            layers = [name.removesuffix(".mean") for name in tensors if name.endswith(".mean")]
            moments = {
                layer: Moments(tensors[f"{layer}.mean"].to(device), tensors[f"{layer}.second"].to(device))
                for layer in layers
            }
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        with suppress(OSError):  # the time only records which were used last
            os.utime(path)
        return moments

    def put(self, key: str, device: torch.device, statistics: Mapping[str, Moments]) -> None:
        """Store statistics, and delete the least recently used ones if the store is full."""
        if self.folder is None:
            return
        tensors = {f"{layer}.mean": moments.mean.cpu().contiguous() for layer, moments in statistics.items()}
        tensors |= {f"{layer}.second": moments.second.cpu().contiguous() for layer, moments in statistics.items()}
        try:
            images.write_file(self._locate(self.folder, key, device), save(tensors), overwrite=True)
            self._delete_oldest(self.folder)
        except (OutputError, OSError):  # they are computed again next time
            return

    def _locate(self, folder: Path, key: str, device: torch.device) -> Path:
        machine = (platform.node(), platform.machine(), describe_device(device), torch.get_num_threads())
        identity = repr((STATS_VERSION, torch.__version__, machine, key))
        digest = hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()
        return folder / f"{digest}{STATS_SUFFIX}"

    def _delete_oldest(self, folder: Path) -> None:
        files = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.name.endswith(STATS_SUFFIX)]
        size = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if size <= self.max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            size -= status.st_size
