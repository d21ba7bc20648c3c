"""Ray's cluster: reached or started, without a word on standard output, and how many workers it has room for."""

import logging
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from styler import environment
from styler.batch import discover
from styler.batch.stats_store import DiskStatsStore
from styler.batch.worker import PICTURES_PER_WORKER, ClusterConfig, PaintTask, Worker, WorkerConfig, WorkerReport
from styler.engine.painter import Painter
from styler.engine.result import Pixels, Progress
from styler.errors import DeviceError, StylerError, UsageError
from styler.images import Picture, fetch_image_bytes
from styler.options import Options
from styler.vgg import registry
from styler.vgg.weights import Weights

CONNECT_SECONDS = 10.0
"""Seconds in which a cluster has to answer at all."""


def connect_cluster(cluster: ClusterConfig) -> tuple[Any, bool]:
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
    _silence_workers()
    _check_reachable(cluster.address)
    on_main = threading.current_thread() is threading.main_thread()
    heard = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=cluster.address, **more)
    except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
        raise _unreachable_error(cluster.address, problem) from problem
    finally:
        if on_main and heard is not None:
            signal.signal(signal.SIGTERM, heard)  # Ray has its own, which would end us
    return ray, True


def _check_reachable(address: str) -> None:
    """See whether somebody listens at an address that has a port: Ray would wait for minutes.

    Raises:
        StylerError: nobody does.
    """
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:([0-9]{1,5})", address)
    if not found:
        return
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=CONNECT_SECONDS):
            pass
    except (OSError, OverflowError) as problem:
        raise _unreachable_error(address, problem) from problem


def _unreachable_error(address: str, problem: Exception) -> StylerError:
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return StylerError(
        f"Ray's cluster at '{address}' cannot be reached ({lines[0].rstrip('.')}); start it with 'ray start --head', "
        "or take --ray-address local."
    )


def _silence_workers() -> None:
    """Have Ray print nothing about its workers: it would stand among the paths on standard output."""
    from ray._private import worker

    worker._worker_logs_enabled = False


def count_workers(ray: Any, cluster: ClusterConfig) -> tuple[int, dict[str, Any]]:
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


def config_for_worker(orders: WorkerConfig, needs: dict[str, Any]) -> WorkerConfig:
    """The orders for a process that sees its own GPU alone, as the first, or none."""
    options = orders.options
    if "num_gpus" in needs:
        options = options.replace(device="cuda" if options.device.startswith("cuda") else options.device)
    elif options.device == "auto":
        options = options.replace(device="cpu")
    return replace(orders, options=options)


LOOK_SECONDS = 1.0
"""Seconds between two reports of progress, and between two looks."""


class RayActor:
    """A worker in a process of Ray's, which can be started again and then knows nothing."""

    def __init__(self) -> None:
        environment.prepare_process()  # what the process inherits is not all of it
        self._halt, self._lock = threading.Event(), threading.Lock()
        self._said: list[WorkerReport] = []
        self._due = 0.0
        self._worker: Worker | None = None

    def ready(self, orders: WorkerConfig, decode: Callable[..., Picture], weights: Weights, *, shelve: bool) -> int:
        """Get the network onto the device.

        Args:
            orders: what all pictures share.
            decode: from bytes, called `name`, to a picture.
            weights: of the network.
            shelve: whether statistics of styles are kept on this machine.

        Returns:
            The number of the process.

        Raises:
            StylerError: the device is absent.
        """

        def painter(options: Options) -> Painter:
            made = Painter.of(options, weights)
            made.remember(DiskStatsStore() if shelve else None)
            return made

        def read(path: str, data: bytes | None) -> Picture:
            return decode(discover.load_url(path) if data is None else data, name=path)

        with self._lock:
            if self._worker is None:
                self._worker = Worker(orders, read, painter, self._halt)
        return os.getpid()

    def paint(
        self, number: int, content: str, styles: tuple[str, ...], names: tuple[str, ...], *data: bytes
    ) -> tuple[list[WorkerReport], WorkerReport] | None:
        """Make one picture.

        Args:
            number: of the picture.
            content: its path or URL.
            styles: likewise.
            names: those of them whose bytes come along.
            data: the bytes.

        Returns:
            What was said of it and not yet looked at, and the last report; None if this process was started again and
            has to be made ready first.
        """
        if self._worker is None:
            return None
        task = PaintTask(number, content, styles, dict(zip(names, data, strict=True)))
        last = self._worker.paint(task, self._worker.ticket(), self._tell)
        with self._lock:
            mine = [report for report in self._said if report.number == number]
            self._said = [report for report in self._said if report.number != number]
        return mine, last

    def look(self) -> list[WorkerReport]:
        """What was said since the last look."""
        with self._lock:
            said, self._said = self._said, []
        return said

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""
        self._halt.set()

    def _tell(self, report: WorkerReport) -> None:
        if report.progress:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + LOOK_SECONDS
            report = replace(report, progress=make_sendable(report.progress))
        with self._lock:
            self._said.append(report)


def make_sendable(progress: Progress) -> Progress:
    """A report that another process can read: losses as numbers, and without a preview."""
    return replace(
        progress, terms={name: torch.tensor(loss) for name, loss in progress.losses.items()}, view=_no_preview
    )


def _no_preview() -> Pixels:
    raise DeviceError("There is no preview of a picture that is painted by another machine; wait until it is done.")


MAX_RESTARTS = 20
"""How often Ray starts an actor again."""
MAX_DEATHS = 3
"""How often a worker may die with a picture in its hands before the picture is thought to be why."""
MAX_STYLES_STORED = 64
"""Styles whose bytes stay in Ray's store."""


@dataclass(slots=True, eq=False)
class _ActorHandle:
    """An actor, as the driver sees it."""

    actor: Any
    readying: Any = None
    """The answer to whether it is ready, until it is there."""
    looking: Any = None
    looked: float = 0.0
    open: dict[int, PaintTask] = field(default_factory=dict)


class RayEngine:
    """The workers of a cluster.

    Args:
        orders: what all pictures share.
        decode: from bytes, called `name`, to a picture.
        cluster: where it is.
        shelve: whether each machine keeps statistics of styles.

    Raises:
        StylerError: Ray is not installed, the cluster cannot be reached or has nothing to paint with, or the network
            cannot be loaded.
    """

    def __init__(
        self, orders: WorkerConfig, decode: Callable[..., Picture], cluster: ClusterConfig, *, shelve: bool = True
    ) -> None:
        weights = registry.load_backbone(orders.options.backbone)
        painter = Painter.of(orders.options.replace(device="cpu", precision="fp32"), weights)
        painter.ready(orders.options)  # what is wrong here is wrong for every picture
        self._ray, self._ours = connect_cluster(cluster)
        try:
            count, needs = count_workers(self._ray, cluster)
            # kept here, for an actor that is started again gets them once more
            self._shared = (self._ray.put(config_for_worker(orders, needs)), decode, self._ray.put(weights))
            self._shelve = shelve
            needs |= {"max_restarts": MAX_RESTARTS, "max_concurrency": PICTURES_PER_WORKER + 1}  # a thread to look with
            remote = self._ray.remote(RayActor).options(
                runtime_env={"env_vars": environment.ENVIRONMENT_SETTINGS}, **needs
            )
            self._hands = [self._asked(_ActorHandle(remote.remote())) for _ in range(count)]
        except BaseException:
            self._end()
            raise
        self.slots = PICTURES_PER_WORKER * count
        self._waiting: deque[PaintTask] = deque()
        self._inbox: deque[WorkerReport] = deque()
        self._works: dict[Any, tuple[_ActorHandle, int]] = {}
        self._deaths: dict[int, int] = {}
        self._sent: dict[str, Any] = {}
        self._halted, self._gone = False, ""
        self._woken = threading.Event()

    def submit(self, task: PaintTask) -> None:
        """Have a picture made."""
        if self._halted:
            self._inbox.append(WorkerReport(task.number, "left"))
        else:
            self._waiting.append(task)

    def poll(self, seconds: float) -> WorkerReport | None:
        """The next report, if one comes in time."""
        self._give()
        if not self._inbox:
            self._listen(seconds)
        return self._inbox.popleft() if self._inbox else None

    def wake(self) -> None:
        """Have `poll` return, from another thread, where it waits for nothing but that."""
        self._woken.set()

    def settled(self, number: int) -> None:
        """Say that a picture is dealt with."""
        self._deaths.pop(number, None)

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""
        if not self._halted:
            self._halted = True
            for hand in self._hands:
                hand.actor.stop.remote()
            self._inbox += [WorkerReport(task.number, "left") for task in self._waiting]
            self._waiting.clear()

    def close(self) -> list[WorkerReport]:
        """End the actors, and the cluster if it is ours; what is ready is told."""
        found = [report for report in self._inbox if report.made]
        try:
            for hand in self._hands:
                self._ray.kill(hand.actor)
        finally:
            self._end()
        return found

    def _end(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _asked(self, hand: _ActorHandle) -> _ActorHandle:
        """Have an actor made ready."""
        hand.readying = hand.actor.ready.remote(*self._shared, shelve=self._shelve)
        return hand

    def _give(self) -> None:
        """Give waiting pictures to actors that have room; one that was lost before is given alone."""
        kept: deque[PaintTask] = deque()
        while self._waiting:
            task = self._waiting.popleft()
            ready = [hand for hand in self._hands if hand.readying is None and self._has_room(hand, task)]
            if not ready:
                kept.append(task)
                continue
            self._send(min(ready, key=lambda hand: len(hand.open)), task)
        self._waiting = kept

    def _has_room(self, hand: _ActorHandle, task: PaintTask) -> bool:
        alone = task.number in self._deaths or any(number in self._deaths for number in hand.open)
        return len(hand.open) < (1 if alone else PICTURES_PER_WORKER)

    def _send(self, hand: _ActorHandle, task: PaintTask) -> None:
        """Give a picture to an actor, with the bytes of what is on this machine."""
        near = tuple(dict.fromkeys(path for path in (task.content, *task.styles) if not discover.is_url(path)))
        try:
            data = [self._bytes(path, keep=path in task.styles) for path in near]
        except StylerError as problem:
            self._inbox += [WorkerReport(task.number, "started"), WorkerReport(task.number, "failed", str(problem))]
            return
        hand.open[task.number] = task
        work = hand.actor.paint.remote(task.number, task.content, task.styles, near, *data)
        self._works[work] = (hand, task.number)

    def _bytes(self, path: str, *, keep: bool) -> Any:
        """The bytes of a file, in Ray's store if others want them too."""
        if path in self._sent:
            return self._sent[path]
        data = fetch_image_bytes(path)
        if not keep:
            return data
        while len(self._sent) >= MAX_STYLES_STORED:
            del self._sent[next(iter(self._sent))]
        self._sent[path] = self._ray.put(data)
        return self._sent[path]

    def _listen(self, seconds: float) -> None:
        """Wait for an answer of any kind, and take it in."""
        for hand in self._hands:
            if hand.open and hand.looking is None and time.monotonic() - hand.looked >= LOOK_SECONDS:
                hand.looking, hand.looked = hand.actor.look.remote(), time.monotonic()
        asked = {hand.readying: partial(self._is_ready, hand) for hand in self._hands if hand.readying is not None}
        asked |= {hand.looking: partial(self._was_seen, hand) for hand in self._hands if hand.looking is not None}
        asked |= {work: partial(self._was_painted, work) for work in self._works}
        if not asked and self._hands:  # what is made is being written
            self._woken.wait(seconds)
            self._woken.clear()
            return
        if not asked:
            raise StylerError(
                f"All workers of the cluster are gone ({self._gone}); see to it, then give the same command again."
            )
        done, _ = self._ray.wait([*asked], num_returns=1, timeout=seconds)
        for ref in done:
            asked[ref]()

    def _is_ready(self, hand: _ActorHandle) -> None:
        """An actor has loaded the network, again perhaps; one that is gone for good is forgotten."""
        from ray import exceptions

        ref, hand.readying = hand.readying, None
        try:
            self._ray.get(ref)
        except exceptions.ActorUnavailableError:  # it is being started
            time.sleep(0.1)
            self._asked(hand)
        except exceptions.RayActorError as problem:
            self._hands.remove(hand)
            self._gone = str(problem).partition("\n")[0]
        except exceptions.RayTaskError as problem:
            if isinstance(problem.cause, StylerError):
                raise type(problem.cause)(str(problem.cause)) from problem
            raise StylerError(
                f"A worker of the cluster cannot begin ({str(problem.cause).strip().splitlines()[-1]}); install the "
                "same versions of styler, PyTorch and Python on every machine."
            ) from problem

    def _was_seen(self, hand: _ActorHandle) -> None:
        from ray import exceptions

        ref, hand.looking = hand.looking, None
        with suppress(exceptions.RayActorError, exceptions.ObjectLostError):  # its pictures' own answers say so, too
            self._inbox += [report for report in self._ray.get(ref) if report.number in hand.open]

    def _was_painted(self, work: Any) -> None:
        """A picture is at its end, or its actor is."""
        from ray import exceptions

        hand, number = self._works.pop(work)
        task = hand.open.pop(number)
        try:
            answer = self._ray.get(work)
        except exceptions.RayTaskError:  # a bug
            raise
        except exceptions.RayError:
            self._lost(hand, task)
            return
        if answer is None:
            self._asked(hand)
            self.submit(task)
            return
        said, last = answer
        self._inbox += [*said, last]

    def _lost(self, hand: _ActorHandle, task: PaintTask) -> None:
        """Give a picture to another worker, unless workers die of it."""
        self._deaths[task.number] = self._deaths.get(task.number, 0) + 1
        if hand.readying is None and hand in self._hands:
            self._asked(hand)
        if self._deaths[task.number] < MAX_DEATHS:
            self._inbox.append(
                WorkerReport(task.number, "note", "The worker that had it died; another one begins it anew.")
            )
            self.submit(task)
        else:
            sentence = (
                f"{MAX_DEATHS} workers died with this picture in their hands, perhaps for want of memory; take a "
            )
            self._inbox.append(
                WorkerReport(task.number, "failed", f"{sentence}smaller --size or more memory a worker.")
            )
