"""A separate process that runs `styler ui`, for benchmarks, and measurements of it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

STYLER = Path(sys.executable).parent / "styler"


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    process: psutil.Process
    folder: Path
    """Folder of its temporary files."""

    def measure_cpu(self, seconds: float) -> float:
        """Return the load of the process and its children over the next seconds, in percent of a core."""
        before = self._cpu_seconds()
        began = time.monotonic()
        time.sleep(seconds)
        return 100 * (self._cpu_seconds() - before) / (time.monotonic() - began)

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def measure_memory(self) -> int:
        """Return the resident bytes of the process, without the decoding child, which may be replaced."""
        return int(self.process.memory_info().rss)

    def measure_files(self) -> int:
        """Return the bytes of its temporary files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def start_server(folder: Path, *flags: str, log: Path | None = None) -> Iterator[Server]:
    """Run `styler ui` with its temporary files in a folder, until the end of the block; wait until it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = log.open("wb") if log else subprocess.DEVNULL
    command = [str(STYLER), "ui", "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "TMPDIR": str(folder)})
    address = f"http://127.0.0.1:{port}/"
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{address}readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield Server(address, psutil.Process(process.pid), folder)
    finally:
        process.terminate()
        process.wait(30)


def find_chromium() -> str:
    """Return the path of the browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "chromium is not installed; on Debian: apt-get install chromium"
    return program


def compute_percentile(values: list[float], share: float) -> float:
    """Return the smallest value that is not exceeded by a share, 0 to 1, of the values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
