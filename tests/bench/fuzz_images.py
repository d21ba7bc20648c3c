"""Feeds the decoder Pillow's own test images and seeded mutations of them.

    python tests/bench/fuzz_images.py [--mutations 100000] [--seconds 480] [--sdist pillow-….tar.gz] [--keep FOLDER]

Every outcome must be a picture or an `ImageError`: no other exception, no crash, no more than 5 s of processor time
(30 s by the clock) and no more than 1 GiB of memory for one picture, at the limit of 50 megapixels. One child process
decodes, and is replaced when it dies. The images come from Pillow's source distribution, which pip fetches; where it
cannot, from pictures made here in every format. Exit code 1 when something was found.
"""

import argparse
import io
import multiprocessing
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from styler import images
from styler.errors import ImageError
from styler.images.detect import Refusal, detect_kind

MAX_PIXELS = 50_000_000
CPU_SECONDS, WALL_SECONDS = 5.0, 30.0
MEMORY = 1 << 30
LARGEST = 200_000  # bytes of a file that is mutated: larger ones are decoded as they are
INTERESTING = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    257,
    32767,
    32768,
    65535,
    65536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one picture."""

    kind: str
    """As its first bytes say."""
    result: str
    """`picture`, `refused`, or the fault."""
    seconds: float
    """Of processor time."""
    memory: int
    """Peak of the process, in bytes."""


@dataclass(slots=True)
class Tally:
    """All outcomes so far."""

    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")

    def add(self, name: str, outcome: Outcome) -> bool:
        """Count one outcome; tell whether it is a fault."""
        self.counts[outcome.kind][outcome.result if outcome.result in {"picture", "refused"} else "fault"] += 1
        self.slowest = max(self.slowest, (outcome.seconds, name))
        self.largest = max(self.largest, (outcome.memory, name))
        wrong = [] if outcome.result in {"picture", "refused"} else [outcome.result]
        wrong += [f"{outcome.seconds:.1f} s"] * (outcome.seconds > CPU_SECONDS)
        wrong += [f"{outcome.memory >> 20} MiB"] * (outcome.memory > MEMORY)
        if wrong:
            self.faults.append(f"{name}: {', '.join(wrong)}")
        return bool(wrong)


LINUX = bool(sys.platform == "linux")


def pillows_images(sdist: Path | None) -> dict[str, bytes]:
    """The test images in Pillow's source distribution, by name; empty when it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        if sdist is None:
            wanted = f"pillow=={version('pillow')}"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", "pillow", "--no-deps", wanted]
            if subprocess.run(command, cwd=folder, check=False, timeout=600).returncode:
                return {}
            sdist = next(Path(folder).glob("*.tar.gz"))
        with tarfile.open(sdist) as archive:
            members = (m for m in archive if m.isfile() and "/Tests/images/" in m.name)
            streams = ((Path(m.name.split("/Tests/images/")[1]).as_posix(), archive.extractfile(m)) for m in members)
            return {name: stream.read() for name, stream in streams if stream}


def made() -> dict[str, bytes]:
    """A small picture in every format and mode that is read here, and one at the limit in the hungriest ones."""
    noise = np.random.default_rng(0).random((40, 48, 4))
    found: dict[str, bytes] = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"):
        image = Image.fromarray((noise * 255).astype(np.uint8)).convert("RGB")
        image = image.convert("L").convert(mode) if mode in {"I;16", "F"} else image.convert(mode)
        for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"):
            stream = io.BytesIO()
            try:
                image.save(stream, form)
            except (OSError, KeyError, ValueError):  # this format has no such mode
                continue
            found[f"made-{mode}.{form.lower()}"] = stream.getvalue()
    for form in ("png", "tiff"):
        deep = images.encode_image(noise[..., :3], alpha=noise[..., 3], format=form, bit_depth=16)
        large = images.encode_image(
            np.zeros((7070, 7070, 3), np.float32), alpha=np.zeros((7070, 7070)), format=form, bit_depth=16
        )
        found |= {f"made-deep.{form}": deep, f"made-large.{form}": large}
    return found


def mutation(files: list[bytes], seed: int) -> bytes:
    """Some file with some changes, the same for the same seed."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(files))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8, 20))):
        if not data:
            break
        # Headers matter most: half of the changes fall into the beginning.
        at = chance.randrange(min(len(data), chance.choice((40, 200, len(data), len(data)))))
        way = chance.randrange(12)
        if way < 4:
            data[at] = chance.randrange(256)
        elif way < 6:
            data[at] ^= 1 << chance.randrange(8)
        elif way < 8:
            size = chance.choice((1, 2, 4))
            number = chance.choice(INTERESTING) % (1 << 8 * size)
            data[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))
        elif way == 8:
            del data[at : at + chance.randrange(1, 64)]
        elif way == 9:
            data[at:at] = data[at : at + chance.randrange(1, 64)]
        elif way == 10:
            other = chance.choice(files)
            begin = chance.randrange(len(other)) if other else 0
            data[at : at + 32] = other[begin : begin + 32]
        elif chance.random() < 0.3:
            del data[at:]
    return mended(bytes(data)) if chance.random() < 0.7 else bytes(data)


def mended(data: bytes) -> bytes:
    """The same with the checksums of a PNG made right, so that its decoder looks further; other data as they are."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        parts += [data[at:end], zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")]
        at = end + 4
    return b"".join([*parts, data[at:]])


def decode(data: bytes) -> str:
    """`picture`, `refused` or the fault."""
    try:
        picture = images.read_image(data, max_pixels=MAX_PIXELS, min_side=1)
    except ImageError as refusal:
        sentence = str(refusal)
        return "refused" if sentence.isprintable() and sentence.endswith(".") else f"sentence {sentence!r}"
    except Exception as fault:  # noqa: BLE001 - what is looked for
        return f"{type(fault).__name__}: {fault}"
    return "picture" if 0 <= picture.pixels.min() <= picture.pixels.max() <= 1 else "values outside 0 to 1"


def child(pipe: Connection) -> None:
    """Decode what comes until nobody sends any more. What libraries in C say about damage is not read."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        forget_peak()
        began = time.process_time()
        result = decode(data)
        pipe.send(Outcome(named(data), result, time.process_time() - began, peak()))


def named(data: bytes) -> str:
    """The kind of a picture, or that it is none."""
    try:
        return detect_kind(data[:4096])
    except Refusal:
        return "no picture"


def forget_peak() -> None:
    """Begin to measure the peak of memory anew, where the system can (Linux); elsewhere it is of the whole life."""
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The peak of this process's memory, in bytes."""
    if LINUX:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


class Decoder:
    """A child process, replaced when it dies."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.start()

    def start(self) -> None:
        """Start a child."""
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(target=child, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> int | None:
        """End the child; its exit code."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode

    def __call__(self, data: bytes) -> Outcome:
        """Have one picture decoded."""
        self.pipe.send_bytes(data)
        try:
            if self.pipe.poll(WALL_SECONDS):
                outcome = self.pipe.recv()
                assert isinstance(outcome, Outcome)
                return outcome
            fault = f"a hang of {WALL_SECONDS:g} s"
            self.stop()
        except (EOFError, ConnectionError):
            self.process.join()
            fault = f"a crash, exit code {self.process.exitcode}"
            self.pipe.close()
        self.start()
        return Outcome("unknown", fault, 0.0, 0)


def inputs(files: dict[str, bytes], mutations: int) -> Iterator[tuple[str, bytes]]:
    """The files as they are, then mutations of the smaller pictures."""
    yield from files.items()
    small = [data for data in files.values() if len(data) <= LARGEST and named(data) != "no picture"]
    for seed in range(mutations):
        yield f"mutation {seed}", mutation(small, seed)


def report(tally: Tally, sources: str, done: int, files: int, seconds: float) -> str:
    """What was found, as text."""
    sums = {kind: sum(counts.values()) for kind, counts in tally.counts.items()}
    lines = [
        f"sources      {sources}",
        f"files        {min(done, files)}",
        f"mutations    {max(0, done - files)}",
        f"seconds      {seconds:.0f}",
        f"slowest      {tally.slowest[0]:.2f} s of processor time: {tally.slowest[1]}",
        f"peak memory  {tally.largest[0] / (1 << 20):.0f} MiB: {tally.largest[1]}",
        f"faults       {len(tally.faults)}",
        *(f"  {fault}" for fault in tally.faults),
        f"{'kind':12}{'picture':>9}{'refused':>9}{'fault':>7}",
    ]
    for kind, counts in sorted(tally.counts.items(), key=lambda item: -sums[item[0]]):
        lines.append(f"{kind:12}{counts['picture']:9}{counts['refused']:9}{counts['fault']:7}")
    total = sum(tally.counts.values(), Counter[str]())
    return "\n".join([*lines, f"{'all':12}{total['picture']:9}{total['refused']:9}{total['fault']:7}"])


def main() -> int:
    """Run, report, and tell by the exit code whether something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so long, and say how far it was"
    )
    parser.add_argument("--sdist", type=Path, help="Pillow's source distribution, instead of asking pip")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that were faults")
    given = parser.parse_args()
    theirs = pillows_images(given.sdist)
    sources = (
        f"Pillow {version('pillow')}'s test images and made ones" if theirs else "made pictures (no sdist of Pillow)"
    )
    files = theirs | made()
    tally, decoder, began, done = Tally(), Decoder(), time.monotonic(), 0
    for name, data in inputs(files, given.mutations):
        if time.monotonic() - began > given.seconds:
            break
        done += 1
        if tally.add(name, decoder(data)) and given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
            (given.keep / f"{name.replace('/', '_')}.bin").write_bytes(data)
    decoder.stop()
    print(report(tally, sources, done, len(files), time.monotonic() - began))
    return bool(tally.faults)


if __name__ == "__main__":
    sys.exit(main())
