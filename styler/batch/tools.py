"""What a batch is worked with: how pictures are read and written, which engine paints them, and what an engine is.

Paints nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from styler import images
from styler.batch.shelf import DiskShelf
from styler.batch.worker import Report, Task
from styler.engine.targets import StatsStore
from styler.images import Picture

Encode = Callable[[str], bytes]
Keep = Callable[[Callable[[], Path | None], Path, Encode], Path | None]
"""Calls what writes a picture; if that fails, may keep the picture elsewhere and fail with a sentence that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where Ray's workers are."""

    address: str = "auto"
    """`auto`, a cluster that runs; `local`, one that is started on this machine and ended afterwards; or a URL."""
    cpus_per_worker: int | None = None
    """Processors of a worker; without it there is a worker for each GPU, or for each processor where there is none."""
    cpus: int | None = None
    """Processors of a cluster that is started; all of the machine when not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """How the pictures are read, painted and written."""

    read: Callable[[Path], Picture] = images.read_image
    """Reads a file on this machine."""
    decode: Callable[..., Picture] = images.read_image
    """Reads bytes, called `name`, on whatever machine; it can be sent there."""
    keep: Keep = lambda write, _name, _encode: write()
    settings: bool = True
    """Whether what made it is written into a picture."""
    keep_metadata: bool = False
    small: bool = True
    """Whether small copies are kept for the index."""
    devices: tuple[str, ...] = ()
    """A worker for each, such as `cuda:0`, `cuda:1`; one worker on the options' device when empty."""
    cluster: Cluster | None = None
    """Paint there instead, by Ray."""
    shelf: StatsStore | None = field(default_factory=DiskShelf)
    """Where statistics of styles outlive the run; on a cluster each machine has its own."""


class Engine(Protocol):
    """What has pictures made; a report is of one of them. See `local` and `ray`."""

    slots: int
    """Pictures that may be submitted and not yet settled."""

    def submit(self, task: Task) -> None:
        """Have a picture made."""

    def poll(self, seconds: float) -> Report | None:
        """The next report, if one comes in time."""

    def wake(self) -> None:
        """Have `poll` return, from another thread."""

    def settled(self, number: int) -> None:
        """Say that a picture is dealt with."""

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""

    def close(self) -> list[Report]:
        """Stop and end; what there was still to say."""
