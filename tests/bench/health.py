"""Request `/healthz` of a server twenty times a second for some time, and print the milliseconds that each takes.

    python tests/bench/health.py ADDRESS SECONDS

Other benchmarks run it in a process of its own: in theirs, the answers would wait for whatever else they do.
"""

import sys
import time

import httpx

INTERVAL = 0.05
"""Seconds between two requests."""


def main() -> None:
    """Request, measure, print one number in each line."""
    address, seconds = sys.argv[1], float(sys.argv[2])
    end = time.monotonic() + seconds
    with httpx.Client(timeout=60) as client:
        while time.monotonic() < end:
            began = time.perf_counter()
            client.get(f"{address}healthz").raise_for_status()
            print(f"{1000 * (time.perf_counter() - began):.2f}", flush=True)
            time.sleep(INTERVAL)


if __name__ == "__main__":
    main()
