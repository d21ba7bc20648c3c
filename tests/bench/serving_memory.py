"""Call `/stylize` with ever new layers, poolings, stroke sizes and sessions, and print how the server's memory grows.

`python tests/bench/serving_memory.py --calls 300`, with the bundled weights.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from serving import Server, start_server

from ui.api import API_OPTIONS

WARMUP_CALLS = 30
"""Calls before the memory is measured for comparison."""
POOLINGS = ("mixed", "average", "max")
LAYERS = tuple(
    f"relu{block}_{layer}" for block, count in enumerate((2, 2, 3, 3, 1), start=1) for layer in range(1, count + 1)
)
SHORT = {"size": 64, "first_size": 64, "iterations": 2}


def choose_options(random_: random.Random, number: int) -> dict[str, Any]:
    """Return options of a call: other layers in another order, another pooling and another stroke size each time."""
    layers = random_.sample(LAYERS, random_.randint(3, len(LAYERS)))
    return {
        **SHORT,
        "style_layers": ",".join(layers),
        "layer_weights": "1",
        "content_layers": random_.choice(LAYERS),
        "pooling": POOLINGS[number % len(POOLINGS)],
        "stroke_size": round(random_.uniform(0.25, 4), 3),
        "seed": number,
    }


def call_endpoint(client: httpx.Client, server: Server, endpoint: int, options: dict[str, Any], session: str) -> None:
    """Request a picture and download it, as a new visitor."""
    values = ["cat", "woodcut", None, *(options.get(name) for name in (*API_OPTIONS, "masks"))]
    join = {"data": values, "fn_index": endpoint, "session_hash": session}
    client.post(f"{server.address}gradio_api/queue/join", json=join).raise_for_status()
    with client.stream("GET", f"{server.address}gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                message = json.loads(line.removeprefix("data: "))
                assert message["success"], message
                break
        else:
            raise AssertionError("the server ended the stream without an answer")
    client.get(f"{server.address}gradio_api/file={message['output']['data'][0]['path']}").raise_for_status()


def main() -> None:
    """Make the calls and print the memory before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_ = random.Random(arguments.seed)
    began, warm_memory, memory = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder), log=Path(folder) / "log") as server:
        client = httpx.Client(timeout=600)
        config = client.get(f"{server.address}config").json()
        endpoint = next(each["id"] for each in config["dependencies"] if each["api_name"] == "stylize")
        for number in range(WARMUP_CALLS + arguments.calls):
            call_endpoint(client, server, endpoint, choose_options(random_, number), f"visitor{number}")
            memory = server.measure_memory()
            if number + 1 == WARMUP_CALLS:
                warm_memory = memory
            if (number + 1) % WARMUP_CALLS == 0:
                print(f"{number + 1:4} calls {memory / 1e6:7.0f} MB", flush=True)
        files, log = server.measure_files(), (Path(folder) / "log").read_text()
    print(f"calls        {arguments.calls} after {WARMUP_CALLS} to warm up; {time.monotonic() - began:.0f} s")
    print(f"memory       {warm_memory / 1e6:.0f} MB after warm-up, {(memory - warm_memory) / 1e6:+.1f} MB at the end")
    print(f"files        {files / 1e6:.1f} MB")
    print(f"tracebacks   {log.count('Traceback')}")


if __name__ == "__main__":
    main()
