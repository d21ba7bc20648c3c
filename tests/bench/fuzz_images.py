"""Feed the decoder Pillow's own test images and seeded mutations of them.

    python tests/bench/fuzz_images.py [--mutations 100000] [--first 0] [--seconds 480] [--sdist FILE] [--keep FOLDER]

Every outcome must be a picture or an `ImageError`: no other exception, no crash, at most 10 s of CPU time (120 s of
wall time), at most 1 GiB of memory and no output of a library per picture, at a limit of 50 megapixels. A child process
decodes and is replaced when it dies. The images come from Pillow's source distribution, which pip downloads, and are
also generated here in every format; HEIC and JPEG XL need their extras. Half of the mutated PNGs get correct checksums,
so that their decoder reads on. The exit code is 1 if there were faults.
"""

import argparse
import importlib.util
import io
import multiprocessing
import os
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.errors import ImageError
from styler.images.detect import Refusal, detect_kind

MAX_PIXELS = 50_000_000
CPU_SECONDS, WALL_SECONDS = 10.0, 120.0
MEMORY = 1 << 30
BATCH = 200  # files sent at once
SMALL = 1 << 26
LARGEST = 20_000  # bytes: larger files are decoded unchanged but not mutated
INTERESTING = (0, 1, 2, 127, 128, 255, 256, 257, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


PRIMARIES = [0.64, 0.33, 1.0, 0.21, 0.71, 1.0, 0.15, 0.06, 1.0]
CHROMATICITIES = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of decoding one file."""

    kind: str
    """Format according to the first bytes."""
    result: str
    """`picture`, `refused`, or a description of the fault."""
    seconds: float
    """CPU time."""
    memory: int
    """Peak of the process, in bytes, above what it took before."""


@dataclass(slots=True)
class Tally:
    """All outcomes so far."""

    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")

    def add(self, name: str, outcome: Outcome) -> bool:
        """Count one outcome and return whether it is a fault."""
        self.counts[outcome.kind][outcome.result if outcome.result in {"picture", "refused"} else "fault"] += 1
        self.slowest = max(self.slowest, (outcome.seconds, name))
        self.largest = max(self.largest, (outcome.memory, name))
        faults = [] if outcome.result in {"picture", "refused"} else [outcome.result]
        faults += [f"{outcome.seconds:.1f} s"] * (outcome.seconds > CPU_SECONDS)
        faults += [f"{outcome.memory >> 20} MiB"] * (outcome.memory > MEMORY)
        if faults:
            self.faults.append(f"{name}: {', '.join(faults)}")
        return bool(faults)


LINUX = bool(sys.platform == "linux")


def load_pillow_images(sdist: Path | None) -> dict[str, bytes]:
    """Load the test images of Pillow's source distribution, by name; empty if it is not available."""
    with tempfile.TemporaryDirectory() as folder:
        if sdist is None:
            requirement = f"pillow=={version('pillow')}"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", "pillow", "--no-deps", requirement]
            if subprocess.run(command, cwd=folder, check=False, timeout=600).returncode:
                return {}
            sdist = next(Path(folder).glob("*.tar.gz"))
        with tarfile.open(sdist) as archive:
            members = (m for m in archive if m.isfile() and "/Tests/images/" in m.name)
            streams = ((Path(m.name.split("/Tests/images/")[1]).as_posix(), archive.extractfile(m)) for m in members)
            return {name: stream.read() for name, stream in streams if stream}


def generate_images() -> dict[str, bytes]:
    """Generate a small image in every supported format and mode, and two at the pixel limit."""
    noise = np.random.default_rng(0).random((40, 48, 4))
    files: dict[str, bytes] = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"):
        image = Image.fromarray((noise * 255).astype(np.uint8)).convert("RGB")
        image = image.convert("L").convert(mode) if mode in {"I;16", "F"} else image.convert(mode)
        for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"):
            stream = io.BytesIO()
            try:
                image.save(stream, form)
            except (OSError, KeyError, ValueError):  # the format does not support the mode
                continue
            files[f"made-{mode}.{form.lower()}"] = stream.getvalue()
    files |= make_tiffs(noise) | make_claims(noise) | make_optional(noise)
    for form in ("png", "tiff"):
        deep = images.encode_image(noise[..., :3], alpha=noise[..., 3], format=form, bit_depth=16)
        large = images.encode_image(
            np.zeros((7070, 7070, 3), np.float32), alpha=np.zeros((7070, 7070)), format=form, bit_depth=16
        )
        files |= {f"made-deep.{form}": deep, f"made-large.{form}": large}
    return files


def make_tiffs(noise: NDArray[np.float64]) -> dict[str, bytes]:
    """Make a TIFF of every compression and layout, and one whose first page is a thumbnail."""
    eight, deep = (noise * 255).astype(np.uint8), (noise * 65535).astype(np.uint16)
    rgb: dict[str, Any] = {"photometric": "rgb"}
    kinds: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        name: (eight[..., :3], {**rgb, "compression": name})
        for name in ("lzw", "zlib", "packbits", "lzma", "zstd", "webp", "jpegxl", "lerc", "jpeg")
    }
    kinds |= {
        "tiles": (eight[..., :3], {**rgb, "tile": (16, 16), "compression": "jpeg"}),
        "lab": (deep[..., :3], {"photometric": 8}),
        "palette": (eight[..., 0], {"photometric": "palette", "colormap": deep.ravel()[:768].reshape(3, 256)}),
        "ycbcr": (eight[..., :3], {"photometric": "ycbcr", "subsampling": (1, 1), "compression": "lzw"}),
        "float": (noise[..., :3].astype(np.float32), {**rgb, "compression": "zlib", "predictor": 3}),
        "4 bit": (eight[..., 0] >> 4, {"bitspersample": 4}),
        "alpha": (eight, {**rgb, "extrasamples": ["assocalpha"]}),
        "curves": (eight[..., :3], {**rgb, "extratags": [(301, "H", 256, np.arange(0, 65536, 256).astype("H"), True)]}),
    }
    files = {}
    for name, (stored, settings) in kinds.items():
        stream = io.BytesIO()
        tifffile.imwrite(stream, stored, metadata=None, **settings)
        files[f"made-{name}.tiff"] = stream.getvalue()
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(eight[::2, ::2, :3], photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        writer.write(eight[..., :3], photometric="rgb", metadata=None)
    return {**files, "made-pages.tiff": stream.getvalue()}


def make_claims(noise: NDArray[np.float64]) -> dict[str, bytes]:
    """Make pictures that say what their numbers mean, or are stored in rarer ways."""
    eight, deep = (noise[..., :3] * 255).astype(np.uint8), (noise[..., :3] * 65535).astype(np.uint16)
    icc = bytes(imagecodecs.cms_profile("rgb", whitepoint=(0.3127, 0.329, 1.0), gamma=2.2, primaries=PRIMARIES))
    chunks = {
        "cicp": [(b"cICP", b"\x0c\x0d\0\1")],
        "hdr": [(b"cICP", b"\x09\x10\0\0"), (b"tIME", bytes(7))],
        "icc": [(b"iCCP", b"name\0\0" + zlib.compress(icc)), (b"zTXt", b"key\0\0" + zlib.compress(b"text"))],
        "gamma": [(b"gAMA", (100_000).to_bytes(4, "big")), (b"cHRM", struct.pack(">8I", *CHROMATICITIES))],
        "xmp": [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>"), (b"sRGB", b"\0")],
        "frames": [(b"acTL", struct.pack(">II", 2, 0)), (b"fcTL", bytes(26))],
    }
    files = {}
    for name, parts in chunks.items():
        for depth, stored in ((8, eight), (16, deep)):
            plain = bytes(imagecodecs.png_encode(stored))
            middle = b"".join(
                struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
                for kind, content in parts
            )
            files[f"made-{name}-{depth}.png"] = plain[:33] + middle + plain[33:]
    twelve, codec = deep >> 4, imagecodecs.jpeg8_encode
    files["made-12.jpeg"] = bytes(codec(twelve, level=90, bitspersample=12))
    files["made-lossless.jpeg"] = bytes(codec(deep, lossless=True, bitspersample=16))
    stream = io.BytesIO()
    Image.fromarray(eight).save(stream, "JPEG", progressive=True, icc_profile=icc)
    files["made-progressive.jpeg"] = stream.getvalue()
    files["made-no-end.jpeg"] = stream.getvalue()[:-2]
    for depth in (10, 12):
        files[f"made-{depth}.avif"] = bytes(imagecodecs.avif_encode(deep >> (16 - depth), bitspersample=depth, speed=9))
    rows = np.dstack([eight, eight[..., :1]]).tobytes()
    masks = struct.pack("<4I4x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    ends = struct.pack("<9i3I", *[1 << 29, 1 << 28, 1 << 25] * 3, *[2 << 16] * 3)
    header = struct.pack("<IiiHHIIiiII", 124, 48, 40, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + ends
    header += struct.pack("<4I", 4, 124 + len(rows), len(icc), 0)
    files["made-v5.bmp"] = struct.pack("<2sIHHI", b"BM", 138 + len(rows), 0, 0, 138) + header + rows + icc
    return files


def make_optional(noise: NDArray[np.float64]) -> dict[str, bytes]:
    """Make HEIC and JPEG XL, if the extras are installed that read them."""
    eight, deep = (noise[..., :3] * 255).astype(np.uint8), (noise * 65535).astype(np.uint16)
    files = {}
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        for mode, stored in (("RGB", eight), ("RGB;16", deep[..., :3].copy()), ("RGBA;16", deep)):
            stream = io.BytesIO()
            pillow_heif.from_bytes(mode, (48, 40), stored.tobytes()).save(stream, quality=80, color_primaries=12)
            files[f"made-{mode}.heic"] = stream.getvalue()
    if importlib.util.find_spec("pillow_jxl"):
        for boxed in (False, True):
            for name, stored in (("8", eight), ("16", deep)):
                encoded = imagecodecs.jpegxl_encode(stored, lossless=name == "8", usecontainer=boxed)
                files[f"made-{name}-{boxed}.jxl"] = bytes(encoded)
    return files


def mutate(files: list[bytes], seed: int) -> bytes:
    """Change a random file at random places, deterministically by seed."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(files))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8, 20))):
        if not data:
            break
        # Headers matter most, so half of the changes are near the beginning.
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
    return repair_checksums(bytes(data)) if chance.random() < 0.5 else bytes(data)


def repair_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that its decoder reads on; return other data unchanged."""
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
    """Decode one file; return `picture`, `refused` or a description of the fault."""
    try:
        picture = images.read_image(data, max_pixels=MAX_PIXELS, min_side=1)
    except ImageError as error:
        sentence = str(error)
        return "refused" if sentence.isprintable() and sentence.endswith(".") else f"sentence {sentence!r}"
    except Exception as fault:  # noqa: BLE001 - unexpected exceptions are what the fuzzer searches for
        place = traceback.extract_tb(fault.__traceback__)[-1]
        return f"{type(fault).__name__} in {place.name}, line {place.lineno}: {fault}"
    return "picture" if 0 <= picture.pixels.min() <= picture.pixels.max() <= 1 else "values outside 0 to 1"


def run_child(pipe: Connection) -> None:
    """Decode batches of files from the pipe until it closes. What libraries print is a fault."""
    printed = tempfile.TemporaryFile()  # noqa: SIM115 - for the life of the process
    for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            return
        reset_peak()
        before = measure_peak()
        for data in batch:
            began = time.process_time()
            result = decode(data)
            if printed.seek(0, os.SEEK_END):
                printed.seek(0)
                result = f"{result}, and a library printed {printed.read()[:200]!r}"
                printed.seek(0)
                printed.truncate()
            grown = measure_peak() - before
            pipe.send(Outcome(detect_format(data), result, time.process_time() - began, grown))
            if grown > SMALL:  # else it would hide the next one; not every time, because it takes as long as decoding
                reset_peak()
                before = measure_peak()


def detect_format(data: bytes) -> str:
    """Return the format of a file, or `no picture`."""
    try:
        return detect_kind(data[:4096])
    except Refusal:
        return "no picture"


def reset_peak() -> None:
    """Reset the peak memory on Linux; elsewhere it covers the lifetime of the process."""
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")


def measure_peak() -> int:
    """Return the peak memory of this process, in bytes."""
    if LINUX:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


class Decoder:
    """A child process that decodes, replaced when it dies."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.start()

    def start(self) -> None:
        """Start a child."""
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(target=run_child, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> int | None:
        """Kill the child and return its exit code."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode

    def decode(self, batch: list[bytes]) -> Iterator[Outcome]:
        """Decode files in the child: many at a time, because each exchange waits for the scheduler."""
        while batch:
            self.pipe.send(batch)
            for at in range(len(batch)):
                try:
                    if self.pipe.poll(WALL_SECONDS):
                        yield self.pipe.recv()
                        continue
                    fault = f"a hang of {WALL_SECONDS:g} s"
                    self.stop()
                except (EOFError, ConnectionError):
                    self.process.join()
                    fault = f"a crash, exit code {self.process.exitcode}"
                    self.pipe.close()
                self.start()
                yield Outcome("unknown", fault, 0.0, 0)
                batch = batch[at + 1 :]
                break
            else:
                return


def list_inputs(files: dict[str, bytes], first: int, mutations: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files unchanged, then mutations of the smaller pictures."""
    yield from files.items()
    small = [data for data in files.values() if len(data) <= LARGEST and detect_format(data) != "no picture"]
    for seed in range(first, first + mutations):
        yield f"mutation {seed}", mutate(small, seed)


def format_report(tally: Tally, sources: str, done: int, files: int, seconds: float) -> str:
    """Format the counts and faults as text."""
    sums = {kind: sum(counts.values()) for kind, counts in tally.counts.items()}
    lines = [
        f"sources      {sources}",
        f"files        {min(done, files)}",
        f"mutations    {max(0, done - files)}",
        f"seconds      {seconds:.0f}",
        f"slowest      {tally.slowest[0]:.2f} s of CPU time: {tally.slowest[1]}",
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
    """Run and report; return 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutation, to divide a long run")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--sdist", type=Path, help="Pillow's source distribution, instead of downloading it")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that caused faults")
    args = parser.parse_args()
    theirs = load_pillow_images(args.sdist)
    sources = (
        f"Pillow {version('pillow')}'s test images and generated ones"
        if theirs
        else "generated images (no sdist of Pillow)"
    )
    files = theirs | generate_images()
    tally, decoder, began, done = Tally(), Decoder(), time.monotonic(), 0
    inputs = list_inputs(files, args.first, args.mutations)
    while (batch := list(islice(inputs, BATCH))) and time.monotonic() - began < args.seconds:
        for (name, data), outcome in zip(batch, decoder.decode([data for _, data in batch]), strict=True):
            done += 1
            if tally.add(name, outcome) and args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{name.replace('/', '_')}.bin").write_bytes(data)
    decoder.stop()
    print(format_report(tally, sources, done, len(files), time.monotonic() - began))
    return bool(tally.faults)


if __name__ == "__main__":
    sys.exit(main())
