"""Ray's cluster: reached or started, without a word on standard output, and how many workers it has room for."""

import logging
import os
import re
import signal
import socket
import threading
from dataclasses import replace
from typing import Any

from styler.batch.tools import Cluster
from styler.batch.worker import Orders
from styler.errors import StylerError, UsageError

KNOCK = 10.0
"""Seconds in which a cluster has to answer at all."""


def connected(cluster: Cluster) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether the connection is ours to end.

    Raises:
        StylerError: it is not installed, or the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns where there is no GPU
    try:
        import ray
    except ImportError as problem:
        raise UsageError("Ray is not installed; pip install 'styler[ray]', or do without --engine ray.") from problem
    if ray.is_initialized():  # by the program that uses us
        return ray, False
    more: dict[str, Any] = {}
    if not cluster.address.startswith("ray://"):
        more = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address == "local":
        more |= {"include_dashboard": False, "num_cpus": cluster.cpus}
    _keep_quiet()
    _knock(cluster.address)
    on_main = threading.current_thread() is threading.main_thread()
    heard = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=cluster.address, **more)
    except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
        raise _unreachable(cluster.address, problem) from problem
    finally:
        if on_main and heard is not None:
            signal.signal(signal.SIGTERM, heard)  # Ray has its own, which would end us
    return ray, True


def _knock(address: str) -> None:
    """See whether somebody listens at an address that has a port: Ray would wait for minutes.

    Raises:
        StylerError: nobody does.
    """
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:([0-9]{1,5})", address)
    if not found:
        return
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=KNOCK):
            pass
    except (OSError, OverflowError) as problem:
        raise _unreachable(address, problem) from problem


def _unreachable(address: str, problem: Exception) -> StylerError:
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return StylerError(
        f"Ray's cluster at '{address}' cannot be reached ({lines[0].rstrip('.')}); start it with 'ray start --head', "
        "or take --ray-address local."
    )


def _keep_quiet() -> None:
    """Have Ray print nothing about its workers: it would stand among the paths on standard output."""
    from ray._private import worker

    worker._worker_logs_enabled = False


def shares(ray: Any, cluster: Cluster) -> tuple[int, dict[str, Any]]:
    """How many workers the cluster has room for, and what each needs.

    Raises:
        UsageError: it has room for none.
    """
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if gpus and not cluster.cpus_per_worker:
        return gpus, {"num_gpus": 1, "num_cpus": min(1, cpus / gpus)}
    each = cluster.cpus_per_worker or 1
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    count = sum(cpus // each for cpus in nodes)
    if not count:
        raise UsageError(
            f"No machine of the cluster has {each} processors for a worker; lower --cpus-per-worker, or add machines."
        )
    return count, {"num_cpus": each}


def for_a_worker(orders: Orders, needs: dict[str, Any]) -> Orders:
    """The orders for a process that sees its own GPU alone, as the first, or none."""
    options = orders.options
    if "num_gpus" in needs:
        options = options.replace(device="cuda" if options.device.startswith("cuda") else options.device)
    elif options.device == "auto":
        options = options.replace(device="cpu")
    return replace(orders, options=options)
