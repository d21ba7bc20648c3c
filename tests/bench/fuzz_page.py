"""Upload damaged pictures, and send broken requests, through the HTTP interface of the page.

Every answer to an upload is a picture or an error message, and the server logs no traceback.

`python tests/bench/fuzz_page.py --uploads 1000`, with the bundled weights.
"""

import argparse
import json
import random
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from fuzz_images import generate_images, mutate
from serving import Server, start_server

from ui.api import API_OPTIONS

WARMUP_UPLOADS = 100
"""Uploads before the memory is measured for comparison."""
BROKEN_REQUESTS = 3
"""Broken requests after each upload."""
TINY = {
    "size": 64,
    "first_size": 64,
    "iterations": 1,
    "style_layers": "relu1_1",
    "layer_weights": "1",
    "content_layers": "relu1_1",
    "brushwork": 0,
}
LEAKS = ("Traceback", "styler-ui-", "site-packages", 'File "')
"""Texts that no answer may contain."""
ENDPOINTS = ("stylize", "preview")
KINDS = ("stylize", "preview", "stylize", "preview in it", "wall")
"""What is requested for each upload, in turns."""
REFUSALS = ("Cannot read", "The picture has", "The result would be")
"""How the answer to an upload that cannot be painted begins."""
NO_PREVIEWS = re.compile("There are no more previews: ([^<]*)<")
NAMES = ("photo.png", "a b.jpg", "..", "../../x.png", "/etc/passwd", "x" * 300 + ".png", "bild.ÄÖ.tif", "con", ".", "-")
PATHS = ("upload", "queue/join", "queue/data", "run/predict", "call/stylize", "cancel", "reset", "heartbeat/x", "info")
FILES = (
    "/etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "~root/.bashrc",
    "file:///etc/passwd",
    "http://127.0.0.1/",
    "%ff",
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 2**70, 1e308, "", "x", "\0", [], [[[]]], {}, {"path": "/etc/passwd"}, {"value": 1}),
    *({"path": path, "meta": {"_type": "gradio.FileData"}} for path in ("/etc/passwd", "", None, 5, "https://x.test/")),
    {"__type__": "update"},
)
BODIES = (
    b"",
    b"null",
    b"{",
    b"[" * 50_000,
    b'{"data": [NaN]}',
    b'"\\ud800"',
    b"\xff\xfe{",
    b"--x\r\nContent-Dis",
    b"\x1f\x8b",
)
TYPES = ("application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "")


def send_broken_request(random_: random.Random, client: httpx.Client, server: Server, events: list[Any]) -> int:
    """Send a request that the page would never send, and return the code of the answer."""
    kind = random_.randrange(4)
    url = f"{server.address}gradio_api/"
    if kind == 0:
        event = random_.choice(events)
        count = random_.choice((len(event["inputs"]), 0, 1, 50))
        body = {
            "data": random_.choices(VALUES, k=count),
            "fn_index": random_.choice((event["id"], event["id"], -1, 9999, "x")),
            "session_hash": random_.choice(("fuzz", "", None, "../x", 5)),
            "event_data": random_.choice((None, {}, {"index": "x", "value": 1}, [])),
        }
        return client.post(url + random_.choice(("run/predict", "queue/join")), json=body).status_code
    if kind == 1:
        return client.get(
            f"{url}file={random_.choice(FILES)}", headers={"Range": f"bytes={random_.random()}"}
        ).status_code
    headers = {"Content-Type": random_.choice(TYPES)}
    method = random_.choice(("POST", "POST", "PUT", "OPTIONS", "HEAD"))
    return client.request(
        method, url + random_.choice(PATHS), content=random_.choice(BODIES), headers=headers
    ).status_code


def make_values(kind: str, upload: Any, config: Any, event: Any) -> list[Any]:
    """Return the values of an event that paints an upload: a picture, a preview of it or in it, or a wall."""
    settings = [TINY.get(option) for option in (*API_OPTIONS, "masks")]
    if kind == "stylize":
        return [upload, "woodcut", None, *settings]
    if kind == "preview":
        return [upload, ["woodcut"], *settings]
    if kind == "preview in it":
        return ["cat", [upload], *settings]
    defaults = {each["id"]: each["props"].get("value") for each in config["components"]}
    return [upload, None, *(defaults[each] for each in event["inputs"][2:])]


def request_painting(client: httpx.Client, server: Server, event: Any, values: list[Any], session: str) -> str:
    """Request a painting of an upload; return "picture", or the error message.

    Of the previews of a wall, only the first is waited for; the others end with the connection.
    """
    join = {"data": values, "fn_index": event["id"], "session_hash": session}
    response = client.post(f"{server.address}gradio_api/queue/join", json=join)
    assert response.status_code < 500, response.text
    line = ""
    with client.stream("GET", f"{server.address}gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in filter(None, stream.iter_lines()):
            assert not any(leak in line for leak in LEAKS if leak != "styler-ui-"), line
            if "background-image" in line:
                return "picture"
            if found := NO_PREVIEWS.search(line):
                return found[1]
            if "process_completed" not in line:
                continue
            message = json.loads(line.removeprefix("data: "))
            if message["success"]:
                return "picture" if event["api_name"] in ENDPOINTS else "a wall without a preview"
            error = str(message["output"]["error"])
            assert not any(leak in error for leak in LEAKS), error
            return error
    raise AssertionError(f"the server ended the stream without an answer, after {line}")


def main() -> None:
    """Run the uploads and print a summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_ = random.Random(arguments.seed)
    files = [*generate_images().values()]
    outcomes: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    broken: Counter[int] = Counter()
    began, warm_memory, max_files = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder), log=Path(folder) / "log") as server:
        client = httpx.Client(timeout=120)
        config = client.get(f"{server.address}config").json()
        events = config["dependencies"]
        named = {each["api_name"]: each for each in events if each["api_name"] in ENDPOINTS}
        refresh = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "refresh")
        named["wall"] = next(each for each in events if [refresh, "click"] in each["targets"])
        events = [each for each in events if each not in named.values()]  # painted below
        for number in range(arguments.uploads + WARMUP_UPLOADS):
            name, data = random_.choice(NAMES), mutate(files, arguments.seed + number)
            response = client.post(f"{server.address}gradio_api/upload", files={"files": (name, data)})
            codes[response.status_code] += 1
            assert response.status_code < 500, response.text
            if response.status_code == 200:
                session, kind = f"fuzz{number % 8}x{number}", KINDS[number % len(KINDS)]
                upload = {"path": response.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
                event = named[kind.partition(" ")[0]]
                outcome = request_painting(client, server, event, make_values(kind, upload, config, event), session)
                assert outcome == "picture" or outcome.startswith(REFUSALS), outcome
                outcomes[f"{kind}: {'picture' if outcome == 'picture' else 'error message'}"] += 1
            for _ in range(BROKEN_REQUESTS):
                broken[send_broken_request(random_, client, server, events)] += 1
            if number == WARMUP_UPLOADS:
                warm_memory = server.measure_memory()
            max_files = max(max_files, server.measure_files())
        assert client.get(f"{server.address}healthz").status_code == 200
        growth = server.measure_memory() - warm_memory
        log, seconds = (Path(folder) / "log").read_text(), time.monotonic() - began
        print(f"uploads              {arguments.uploads} after {WARMUP_UPLOADS} to warm up; {seconds:.0f} s")
        print(f"codes of uploads     {dict(codes)}")
        print(f"answers              {dict(sorted(outcomes.items()))}")
        print(f"broken requests      {dict(sorted(broken.items()))}")
        print(f"tracebacks           {log.count('Traceback')} in the server's log, 0 in answers")
        print(f"memory               {warm_memory / 1e6:.0f} MB after warm-up, {growth / 1e6:+.1f} MB at the end")
        print(f"temporary folder     {max_files / 1e6:.1f} MB at most, of 2000 MB")
        print("server               running")


if __name__ == "__main__":
    main()
