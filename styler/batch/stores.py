"""Store tensors on disk, so that another run does not compute them again: statistics of styles, and scales of previews.

Knows tensors and files; `engine.styles` knows what the statistics mean, `engine.resume.scales` what the scales are. A
file that cannot be read or has been changed counts as missing, and a store that cannot be written is not used.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from styler import environment, images, provenance
from styler.engine.device import describe_device
from styler.engine.resume.scales import PaintedScale
from styler.errors import OutputError
from styler.objective.moments import Moments

STATS_VERSION = 1
"""Increases when statistics are computed differently."""
MAX_STATS_BYTES, MAX_PREVIEWS_BYTES = 1_000_000_000, 200_000_000
"""Sizes of the stores; what was used least recently is deleted first."""
SUFFIX, CHECKSUM = ".safetensors", "sha256"
"""Extension of the files, and the tensor in each that shows whether the others are as they were written."""


class DiskStore:
    """Tensors by key, one file each, in a folder that only this user can list.

    The name of a file also depends on the machine, the device and the number of threads: where these differ, the last
    digits of the tensors can change, and the same seed has to give the same pixels.

    Args:
        folder: where they are; nothing is stored if there is none.
        max_bytes: size of the store.
        version: of what is stored, by its `repr`.
    """

    def __init__(self, folder: Path | None, max_bytes: int, version: Any) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._version = version

    def read(self, key: str, device: torch.device) -> dict[str, Tensor] | None:
        """Return the tensors stored under a key, on the CPU; None if there are none."""
        if self.folder is None:
            return None
        path = self._locate(self.folder, key, device)
        try:
            tensors: dict[str, Tensor] = load(path.read_bytes())
        except (OSError, SafetensorError, ValueError):
            return None
        checksum = tensors.pop(CHECKSUM, None)
        if checksum is None or not torch.equal(checksum, _compute_checksum(tensors)):
            return None
        with suppress(OSError):  # the time only records which were used last
            os.utime(path)
        return tensors

    def write(self, key: str, device: torch.device, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors under a key, and delete the least recently used ones if the store is full."""
        if self.folder is None:
            return
        stored = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }  # files share no memory
        stored[CHECKSUM] = _compute_checksum(stored)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            images.write_file(self._locate(self.folder, key, device), save(stored), overwrite=True)
            self._delete_oldest(self.folder)
        except (OutputError, OSError):  # they are computed again next time
            return

    def _locate(self, folder: Path, key: str, device: torch.device) -> Path:
        machine = (platform.node(), platform.machine(), describe_device(device), torch.get_num_threads())
        identity = repr((self._version, torch.__version__, machine, key))
        digest = hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()
        return folder / f"{digest}{SUFFIX}"

    def _delete_oldest(self, folder: Path) -> None:
        files = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
        size = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if size <= self.max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            size -= status.st_size


class DiskStatsStore(DiskStore):
    """Statistics of styles, by default in this user's cache; a `StatsStore` of `engine.styles`."""

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_STATS_BYTES) -> None:
        super().__init__(folder or _find_cache("statistics"), max_bytes, STATS_VERSION)

    def get(self, key: str, device: torch.device) -> Mapping[str, Moments] | None:
        """Return statistics on a device; None if there are none."""
        tensors = self.read(key, device)
        if tensors is None:
            return None
        layers = [name.removesuffix(".mean") for name in tensors if name.endswith(".mean")]
        return {
            layer: Moments(tensors[f"{layer}.mean"].to(device), tensors[f"{layer}.second"].to(device))
            for layer in layers
        }

    def put(self, key: str, device: torch.device, statistics: Mapping[str, Moments]) -> None:
        """Store statistics."""
        tensors = {f"{layer}.mean": moments.mean for layer, moments in statistics.items()}
        self.write(key, device, tensors | {f"{layer}.second": moments.second for layer, moments in statistics.items()})


class DiskScaleStore(DiskStore):
    """Painted scales of previews, by default in this user's cache; a `ScaleStore` of `engine.resume.scales`.

    They depend on all of the engine, so that another version of styler does not find them.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_PREVIEWS_BYTES) -> None:
        super().__init__(folder or _find_cache("previews"), max_bytes, ("scales", provenance.get_version()))

    def get(self, key: str, device: torch.device) -> PaintedScale | None:
        """Return a scale; None if there is none."""
        tensors = self.read(key, device)
        if tensors is None:
            return None
        return PaintedScale(tensors["image"], _unpack(tensors, "last"), _unpack(tensors, "best"))

    def put(self, key: str, device: torch.device, scale: PaintedScale) -> None:
        """Store a scale."""
        self.write(
            key, device, {"image": scale.image, **_pack(scale.losses, "last"), **_pack(scale.best_losses, "best")}
        )


def _find_cache(name: str) -> Path | None:
    cache = environment.find_cache_folder()
    return cache and cache / name


def _pack(terms: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return terms with names that keep their order, since files sort their tensors."""
    return {f"{group}/{index:03}/{name}": term for index, (name, term) in enumerate(terms.items())}


def _unpack(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    names = sorted(name for name in tensors if name.startswith(f"{group}/"))
    return {name.split("/", 2)[2]: tensors[name] for name in names}


def _compute_checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the SHA-256 of names, types, shapes and values, (32,) uint8."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode("utf-8", "backslashreplace"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
