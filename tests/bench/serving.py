"""The page as `styler ui` serves it, in a process of its own, for benchmarks: started, asked, and measured."""

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
    """A server that runs."""

    address: str
    process: psutil.Process
    folder: Path
    """Its temporary files."""

    def busy(self, seconds: float) -> float:
        """Per cent of a core that the process and its children take in the next seconds."""
        before = self._seconds()
        began = time.monotonic()
        time.sleep(seconds)
        return 100 * (self._seconds() - before) / (time.monotonic() - began)

    def _seconds(self) -> float:
        times = [it.cpu_times() for it in (self.process, *self.process.children(recursive=True))]
        return sum(it.user + it.system for it in times)

    def memory(self) -> int:
        """Bytes that the process holds; the decoding child, which may be replaced, aside."""
        return int(self.process.memory_info().rss)

    def files(self) -> int:
        """Bytes of its temporary files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def serving(folder: Path, *flags: str, log: Path | None = None) -> Iterator[Server]:
    """`styler ui` with its temporary files in a folder, ready, until the end of the block."""
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


def chromium() -> str:
    """Where the browser is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "there is no chromium; on Debian: apt-get install chromium"
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
