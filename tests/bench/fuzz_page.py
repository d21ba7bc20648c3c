"""Uploads of damaged pictures through the page's own HTTP interface: every answer is a picture or a clean refusal.

`python tests/bench/fuzz_page.py --uploads 1000`, with the real weights.
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
from serving import Server, serving

from ui.api import API_OPTIONS

WARM = 100
"""Uploads before memory is compared."""
TINY = {"size": 64, "first_size": 64, "iterations": 1}
LEAKS = ("Traceback", "styler-ui-", "site-packages", 'File "')
"""What no answer may contain."""


def seeds(random_: random.Random) -> list[tuple[str, bytes]]:
    """Small pictures of every kind that is read."""
    found = []
    noise = Image.frombytes("RGB", (96, 80), random_.randbytes(96 * 80 * 3))
    for kind, ending in (
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("WEBP", "webp"),
        ("TIFF", "tif"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("AVIF", "avif"),
    ):
        for mode in ("RGB", "L", "RGBA", "P"):
            if (kind, mode) in {("JPEG", "RGBA"), ("JPEG", "P"), ("BMP", "RGBA")}:
                continue
            stream = io.BytesIO()
            noise.convert(mode).save(stream, kind)
            found.append((f"{kind}-{mode}.{ending}", stream.getvalue()))
    return found


def mutated(random_: random.Random, data: bytes) -> bytes:
    """Bytes changed, removed, doubled or inserted."""
    damaged = bytearray(data)
    for _ in range(random_.choice((0, 1, 1, 2, 4, 16))):
        place = random_.randrange(max(1, len(damaged)))
        kind = random_.randrange(5)
        if kind == 0 and damaged:
            damaged[place % len(damaged)] = random_.randrange(256)
        elif kind == 1:
            del damaged[place:]
        elif kind == 2:
            damaged[place:place] = random_.randbytes(random_.randrange(1, 64))
        elif kind == 3:
            del damaged[place : place + random_.randrange(1, 64)]
        else:
            damaged[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(damaged)


def stylized(client: httpx.Client, server: Server, endpoint: int, path: str, name: str, session: str) -> str:
    """Ask for a tiny painting of an upload; returns `picture`, or the sentence of the refusal."""
    upload = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    values: list[Any] = [upload, "woodcut", None, *(TINY.get(option) for option in API_OPTIONS)]
    join = {"data": values, "fn_index": endpoint, "session_hash": session}
    answer = client.post(f"{server.address}gradio_api/queue/join", json=join)
    assert answer.status_code < 500, answer.text
    with client.stream("GET", f"{server.address}gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            assert not any(leak in line for leak in LEAKS if leak != "styler-ui-"), line
            if "process_completed" not in line:
                continue
            message = json.loads(line.removeprefix("data: "))
            if message["success"]:
                return "picture"
            sentence = str(message["output"]["error"])
            assert not any(leak in sentence for leak in LEAKS), sentence
            return sentence
    raise AssertionError("the server ended the stream without an answer")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random_ = random.Random(asked.seed)
    kinds = seeds(random_)
    ends: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    began, before, most = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), log=Path(folder) / "log") as server:
        client = httpx.Client(timeout=120)
        config = client.get(f"{server.address}config").json()
        endpoint = next(it["id"] for it in config["dependencies"] if it["api_name"] == "stylize")
        for number in range(asked.uploads + WARM):
            name, data = random_.choice(kinds)
            sent = (name, mutated(random_, data))
            answer = client.post(f"{server.address}gradio_api/upload", files={"files": sent})
            codes[answer.status_code] += 1
            assert answer.status_code < 500, answer.text
            if answer.status_code == 200:
                end = stylized(client, server, endpoint, answer.json()[0], name, f"fuzz{number % 8}x{number}")
                assert end == "picture" or end.startswith("Cannot read"), end
                ends["picture" if end == "picture" else "refused in a sentence"] += 1
            if number == WARM:
                before = server.memory()
            most = max(most, server.files())
        assert client.get(f"{server.address}healthz").status_code == 200
        grown = server.memory() - before
        log, took = (Path(folder) / "log").read_text(), time.monotonic() - began
        print(f"uploads              {asked.uploads + WARM}, the first {WARM} to warm up; {took:.0f} s")
        print(f"codes of uploads     {dict(codes)}")
        print(f"answers              {dict(ends)}")
        print(f"tracebacks           {log.count('Traceback')} in the server's log, 0 in answers")
        print(f"memory               {before / 1e6:.0f} MB when warm, {grown / 1e6:+.1f} MB at the end")
        print(f"temporary folder     {most / 1e6:.1f} MB at most, of 2000 MB")
        print("server               alive")


if __name__ == "__main__":
    main()
