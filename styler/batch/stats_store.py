"""Statistics of styles, kept on the disk: a batch that goes on, or another with the same style, computes none again.

Knows tensors and files; what the statistics mean, `targets` knows. A file that cannot be read is as if it were not
there, and where none can be written, painting goes on without.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load, save

from styler import images
from styler.engine.device import describe_device
from styler.engine.losses import Moments
from styler.errors import OutputError

STATS_VERSION = 1
"""Goes up when statistics are computed in another way."""
MAX_STATS_BYTES = 1_000_000_000
"""Bytes that are kept; the longest unused go first."""
STATS_SUFFIX = ".safetensors"


def default_stats_folder() -> Path:
    """Where they are kept unless somebody says otherwise: this user's cache."""
    return user_cache_path("styler") / "statistics"


class DiskStatsStore:
    """Statistics by their key, in a folder.

    They are those of this machine, device and number of threads alone, since others may give other last digits, and
    the same seed shall give the same pixels.

    Args:
        folder: where they are.
        room: bytes that are kept.
    """

    def __init__(self, folder: Path | None = None, room: int = MAX_STATS_BYTES) -> None:
        self.folder = default_stats_folder() if folder is None else folder
        self.room = room

    def get(self, key: str, device: torch.device) -> Mapping[str, Moments] | None:
        """What was put there, on a device; None if there is nothing."""
        place = self._place(key, device)
        try:
            found = load(place.read_bytes())
            names = [name.removesuffix(".mean") for name in found if name.endswith(".mean")]
            kept = {
                name: Moments(found[f"{name}.mean"].to(device), found[f"{name}.second"].to(device)) for name in names
            }
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        with suppress(OSError):  # it only tells which were used last
            os.utime(place)
        return kept

    def put(self, key: str, device: torch.device, found: Mapping[str, Moments]) -> None:
        """Keep statistics, and drop the longest unused where there are too many."""
        tensors = {f"{name}.mean": moments.mean.cpu().contiguous() for name, moments in found.items()}
        tensors |= {f"{name}.second": moments.second.cpu().contiguous() for name, moments in found.items()}
        try:
            images.write_file(self._place(key, device), save(tensors), overwrite=True)
            self._tidy()
        except (OutputError, OSError):  # a cache that cannot be written: they are computed again next time
            return

    def _place(self, key: str, device: torch.device) -> Path:
        where = (platform.node(), platform.machine(), describe_device(device), torch.get_num_threads())
        whole = repr((STATS_VERSION, torch.__version__, where, key))
        return self.folder / f"{hashlib.sha256(whole.encode('utf-8', 'backslashreplace')).hexdigest()}{STATS_SUFFIX}"

    def _tidy(self) -> None:
        kept = [(entry.stat(), entry.path) for entry in os.scandir(self.folder) if entry.name.endswith(STATS_SUFFIX)]
        size = sum(status.st_size for status, _ in kept)
        for status, path in sorted(kept, key=lambda it: it[0].st_mtime_ns):
            if size <= self.room:
                return
            Path(path).unlink(missing_ok=True)
            size -= status.st_size
