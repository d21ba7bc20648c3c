"""Upload damaged pictures through the HTTP interface of the page: every answer is a picture or an error message.

`python tests/bench/fuzz_page.py --uploads 1000`, with the bundled weights.
"""

import argparse
import io
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from serving import Server, start_server

from ui.api import API_OPTIONS

WARMUP_UPLOADS = 100
"""Uploads before the memory is measured for comparison."""
TINY = {"size": 64, "first_size": 64, "iterations": 1}
LEAKS = ("Traceback", "styler-ui-", "site-packages", 'File "')
"""Texts that no answer may contain."""


def make_pictures(random_: random.Random) -> list[tuple[str, bytes]]:
    """Return small pictures in every format that can be read, by file name."""
    pictures = []
    noise = Image.frombytes("RGB", (96, 80), random_.randbytes(96 * 80 * 3))
    for name, suffix in (
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("WEBP", "webp"),
        ("TIFF", "tif"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("AVIF", "avif"),
    ):
        for mode in ("RGB", "L", "RGBA", "P"):
            if (name, mode) in {("JPEG", "RGBA"), ("JPEG", "P"), ("BMP", "RGBA")}:
                continue
            stream = io.BytesIO()
            noise.convert(mode).save(stream, name)
            pictures.append((f"{name}-{mode}.{suffix}", stream.getvalue()))
    return pictures


def damage(random_: random.Random, data: bytes) -> bytes:
    """Return a copy with bytes changed, removed or inserted."""
    damaged = bytearray(data)
    for _ in range(random_.choice((0, 1, 1, 2, 4, 16))):
        position = random_.randrange(max(1, len(damaged)))
        kind = random_.randrange(5)
        if kind == 0 and damaged:
            damaged[position % len(damaged)] = random_.randrange(256)
        elif kind == 1:
            del damaged[position:]
        elif kind == 2:
            damaged[position:position] = random_.randbytes(random_.randrange(1, 64))
        elif kind == 3:
            del damaged[position : position + random_.randrange(1, 64)]
        else:
            damaged[position : position + 4] = b"\xff\xff\xff\xff"
    return bytes(damaged)


def request_painting(client: httpx.Client, server: Server, endpoint: int, path: str, name: str, session: str) -> str:
    """Request a tiny painting of an upload; return "picture", or the error message."""
    upload = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    values: list[Any] = [upload, "woodcut", None, *(TINY.get(option) for option in API_OPTIONS)]
    join = {"data": values, "fn_index": endpoint, "session_hash": session}
    response = client.post(f"{server.address}gradio_api/queue/join", json=join)
    assert response.status_code < 500, response.text
    with client.stream("GET", f"{server.address}gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            assert not any(leak in line for leak in LEAKS if leak != "styler-ui-"), line
            if "process_completed" not in line:
                continue
            message = json.loads(line.removeprefix("data: "))
            if message["success"]:
                return "picture"
            error = str(message["output"]["error"])
            assert not any(leak in error for leak in LEAKS), error
            return error
    raise AssertionError("the server ended the stream without an answer")


def main() -> None:
    """Run the uploads and print a summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_ = random.Random(arguments.seed)
    pictures = make_pictures(random_)
    outcomes: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    began, warm_memory, max_files = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder), log=Path(folder) / "log") as server:
        client = httpx.Client(timeout=120)
        config = client.get(f"{server.address}config").json()
        endpoint = next(each["id"] for each in config["dependencies"] if each["api_name"] == "stylize")
        for number in range(arguments.uploads + WARMUP_UPLOADS):
            name, data = random_.choice(pictures)
            upload = (name, damage(random_, data))
            response = client.post(f"{server.address}gradio_api/upload", files={"files": upload})
            codes[response.status_code] += 1
            assert response.status_code < 500, response.text
            if response.status_code == 200:
                session = f"fuzz{number % 8}x{number}"
                outcome = request_painting(client, server, endpoint, response.json()[0], name, session)
                assert outcome == "picture" or outcome.startswith("Cannot read"), outcome
                outcomes["picture" if outcome == "picture" else "error message"] += 1
            if number == WARMUP_UPLOADS:
                warm_memory = server.measure_memory()
            max_files = max(max_files, server.measure_files())
        assert client.get(f"{server.address}healthz").status_code == 200
        growth = server.measure_memory() - warm_memory
        log, seconds = (Path(folder) / "log").read_text(), time.monotonic() - began
        print(f"uploads              {arguments.uploads} after {WARMUP_UPLOADS} to warm up; {seconds:.0f} s")
        print(f"codes of uploads     {dict(codes)}")
        print(f"answers              {dict(outcomes)}")
        print(f"tracebacks           {log.count('Traceback')} in the server's log, 0 in answers")
        print(f"memory               {warm_memory / 1e6:.0f} MB after warm-up, {growth / 1e6:+.1f} MB at the end")
        print(f"temporary folder     {max_files / 1e6:.1f} MB at most, of 2000 MB")
        print("server               running")


if __name__ == "__main__":
    main()
