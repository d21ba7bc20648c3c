"""Paint a batch on a Ray cluster: connect to it, run a worker in each of its actors, and recover when some are lost.

An actor holds at most two pictures, so that it reads and encodes while its device works, and so that its death costs
only those two; other actors paint them. The driver sends bytes, or URLs that every machine can open, gets the encoded
pictures back, and writes them and the manifest itself: the machines share nothing but the installed packages. The
network's weights are sent once. README.md describes the setup of a cluster and the throughput.
"""

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
from styler.batch.stores import DiskStatsStore
from styler.batch.worker import PICTURES_PER_WORKER, PaintTask, Worker, WorkerConfig, WorkerReport
from styler.engine.painter import Painter
from styler.engine.result import Pixels, Progress
from styler.engine.resume.state import refuse_late
from styler.errors import DeviceError, StylerError, UsageError
from styler.images import Picture, fetch_image_bytes
from styler.vgg import registry
from styler.vgg.weights import Weights

CONNECT_SECONDS = 10.0
"""Seconds within which a cluster has to accept a connection."""
REPORT_SECONDS = 1.0
"""Seconds between two reports of progress that an actor keeps, and between two requests for them."""
RESTART_SECONDS = 0.1
"""Seconds before an actor that is being restarted is asked again."""
MAX_RESTARTS = 20
"""Number of times that Ray restarts an actor."""
MAX_DEATHS = 3
"""Number of workers that may die with a picture in progress before the picture itself is considered the cause."""
MAX_STYLES_STORED = 64
"""Styles whose bytes stay in Ray's object store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Which Ray cluster to use, and the size of its workers."""

    address: str = "auto"
    """`auto` for a running cluster, `local` for one that is started on this machine for the run, or an address."""
    cpus_per_worker: int | None = None
    """CPUs of a worker; None for a worker for each GPU, or for each CPU if the cluster has no GPU."""
    cpus: int | None = None
    """CPUs of a `local` cluster; None for all of the machine."""


def connect_cluster(cluster: ClusterConfig) -> tuple[Any, bool]:
    """Return the `ray` module, connected to a cluster, and whether this call made the connection.

    Raises:
        StylerError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns where there is no GPU
    try:
        import ray
        from ray._private import worker
    except ImportError as problem:
        raise UsageError("Ray is not installed; run 'pip install ray', or omit --engine ray.") from problem
    if ray.is_initialized():
        return ray, False
    settings: dict[str, Any] = {}
    if not cluster.address.startswith("ray://"):
        settings = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address == "local":
        settings |= {"include_dashboard": False, "num_cpus": cluster.cpus}
    worker._worker_logs_enabled = False  # which would mix with the paths on standard output
    _check_reachable(cluster.address)
    is_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=cluster.address, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
        raise _make_unreachable_error(cluster.address, problem) from problem
    finally:
        if is_main_thread and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own, which ends the program
    return ray, True


def _check_reachable(address: str) -> None:
    """Open a connection to an address that has a port, since Ray would try for minutes.

    Raises:
        StylerError: nothing listens there.
    """
    match = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:([0-9]{1,5})", address)
    if not match:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as problem:
        raise _make_unreachable_error(address, problem) from problem


def _make_unreachable_error(address: str, problem: Exception) -> StylerError:
    reason = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
    return StylerError(
        f"Cannot reach the Ray cluster at '{address}' ({reason}); start it with 'ray start --head', or use "
        "--ray-address local."
    )


def count_workers(ray: Any, cluster: ClusterConfig) -> tuple[int, dict[str, Any]]:
    """Return how many workers fit on the cluster, and the resources that each one takes.

    Raises:
        UsageError: none fits.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if gpus and not cluster.cpus_per_worker:
        return gpus, {"num_gpus": 1, "num_cpus": min(1, cpus / gpus)}
    each = cluster.cpus_per_worker or 1
    count = sum(int(node["Resources"].get("CPU", 0)) // each for node in ray.nodes() if node["Alive"])
    if not count:
        raise UsageError(f"No machine of the cluster has {each} CPUs; lower --cpus-per-worker, or add machines.")
    return count, {"num_cpus": each}


def adapt_config(config: WorkerConfig, resources: dict[str, Any]) -> WorkerConfig:
    """Return the settings for a process that sees its own GPU as the first one, or none."""
    device = config.options.device
    if "num_gpus" in resources:
        return config.replace_options(device="cuda" if device.startswith("cuda") else device)
    return config.replace_options(device="cpu" if device == "auto" else device)


class RayActor:
    """A worker in a Ray process; Ray can restart it, which loses its state."""

    def __init__(self) -> None:
        environment.prepare_process()  # the environment of the process does not contain all of it
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._reports: list[WorkerReport] = []
        self._next_progress = 0.0
        self._worker: Worker | None = None

    def prepare(self, config: WorkerConfig, decode: Callable[..., Picture], weights: Weights, keep_stats: bool) -> str:
        """Load the network and return its precision.

        Args:
            config: settings shared by all pictures.
            decode: decodes bytes; `name` is their path or URL.
            weights: of the network.
            keep_stats: whether style statistics are stored on the disk of this machine.

        Raises:
            StylerError: the device is absent.
        """

        def read(path: str, data: bytes | None) -> Picture:
            return decode(discover.load_url(path) if data is None else data, name=path)

        with self._lock:
            if self._worker is None:
                self._worker = Worker(config, read, self._stop, DiskStatsStore() if keep_stats else None, weights)
            return self._worker.precision

    def paint(self, task: PaintTask, paths: tuple[str, ...], *data: bytes) -> list[WorkerReport] | None:
        """Paint a picture.

        Args:
            task: the picture.
            paths: inputs that the driver sends.
            data: the bytes of each of them.

        Returns:
            The reports of this picture that `take_reports` has not returned; the last one is final. None if this
            process was restarted and has to be prepared first.
        """
        if self._worker is None:
            return None
        task = replace(task, data=dict(zip(paths, data, strict=True)))
        final = self._worker.submit(task, self._keep_report).result()
        with self._lock:
            own = [report for report in self._reports if report.number == task.number]
            self._reports = [report for report in self._reports if report.number != task.number]
        return [*own, final]

    def take_reports(self, *, stop: bool = False) -> list[WorkerReport]:
        """Return the reports since the last call; with `stop`, stop first, in case the call of `stop` was lost."""
        if stop:
            self.stop()
        with self._lock:
            reports, self._reports = self._reports, []
        return reports

    def stop(self) -> None:
        """Start no more pictures and discard those in progress."""
        self._stop.set()

    def _keep_report(self, report: WorkerReport) -> None:
        if report.progress:
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + REPORT_SECONDS
            report = replace(report, progress=make_picklable(report.progress))
        with self._lock:
            self._reports.append(report)


def make_picklable(progress: Progress) -> Progress:
    """Return progress that another process can read: with losses on the CPU, without live view and snapshot."""
    terms = {name: torch.tensor(loss) for name, loss in progress.losses.items()}
    return replace(progress, terms=terms, render=_refuse_live_view, capture=refuse_late)


def _refuse_live_view() -> Pixels:
    raise DeviceError("A picture that another machine paints has no live view; wait until it is finished.")


@dataclass(slots=True, eq=False)
class _ActorState:
    """The driver's view of an actor."""

    handle: Any
    is_ready: bool = False
    is_asked: bool = False
    """Whether a call of `take_reports` is unanswered."""
    next_ask: float = 0.0
    open: dict[int, PaintTask] = field(default_factory=dict)


class RayEngine:
    """Workers in the processes of a cluster; has the same methods as `LocalEngine`.

    Args:
        config: settings shared by all pictures.
        decode: decodes bytes; `name` is their path or URL.
        cluster: which cluster to use.
        keep_stats: whether each machine stores style statistics on its disk.

    Raises:
        StylerError: Ray is not installed, the cluster cannot be reached or has no room for a worker, or the network
            cannot be loaded.
    """

    def __init__(
        self, config: WorkerConfig, decode: Callable[..., Picture], cluster: ClusterConfig, *, keep_stats: bool = True
    ) -> None:
        weights = registry.load_backbone(config.options.backbone)
        painter = Painter.of(config.options.replace(device="cpu", precision="fp32"), weights)
        painter.load_networks(config.options)  # an error here would be the error of every picture
        self.precision = config.options.precision
        """That of all pictures; the first worker that is ready chooses it if the options do not."""
        self._inbox: deque[WorkerReport] = deque()
        self._waiting: deque[PaintTask] = deque()
        self._calls: dict[Any, Callable[[Any], None]] = {}
        """References to pending calls of actors, and the function that handles each answer."""
        self._deaths: dict[int, int] = {}
        self._stored: dict[str, Any] = {}
        self._is_stopped, self._last_loss = False, ""
        self._woken = threading.Event()
        self._ray, self._is_ours = connect_cluster(cluster)
        try:
            count, resources = count_workers(self._ray, cluster)
            # referenced as long as the engine lives: a restarted actor is given them again
            config = adapt_config(config, resources)
            self._shared = (self._ray.put(config), decode, self._ray.put(weights), keep_stats)
            actor = self._ray.remote(RayActor).options(
                runtime_env={"env_vars": environment.ENVIRONMENT_SETTINGS},
                max_restarts=MAX_RESTARTS,
                max_concurrency=PICTURES_PER_WORKER + 1,  # a thread for `take_reports`
                **resources,
            )
            self._actors = [_ActorState(actor.remote()) for _ in range(count)]
            for state in self._actors:
                self._prepare(state)
        except BaseException:
            self._disconnect()
            raise
        self.slots = PICTURES_PER_WORKER * count

    def submit(self, task: PaintTask) -> None:
        """Queue a picture."""
        if self._is_stopped:
            self._inbox.append(WorkerReport(task.number, "unstarted"))
        else:
            self._waiting.append(task)

    def poll(self, seconds: float) -> WorkerReport | None:
        """Return the next report; None if none comes in time."""
        self._distribute()
        if not self._inbox:
            self._wait(seconds)
        return self._inbox.popleft() if self._inbox else None

    def wake(self) -> None:
        """Make `poll` return if no actor is working; can be called from any thread."""
        self._woken.set()

    def stop(self) -> None:
        """Start no more pictures and discard those in progress."""
        if not self._is_stopped:
            self._is_stopped = True
            for actor in self._actors:
                actor.handle.stop.remote()
            self._inbox += [WorkerReport(task.number, "unstarted") for task in self._waiting]
            self._waiting.clear()

    def close(self) -> list[WorkerReport]:
        """End the actors, and a cluster that was started here; return the reports that were not polled."""
        try:
            for actor in self._actors:
                self._ray.kill(actor.handle)
        finally:
            self._disconnect()
        return [*self._inbox]

    def _disconnect(self) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def _prepare(self, actor: _ActorState) -> None:
        """Have an actor load the network, unless it gets no more pictures."""
        actor.is_ready = False
        if self._is_stopped:
            return
        self._calls[actor.handle.prepare.remote(*self._shared)] = partial(self._handle_ready, actor)

    def _distribute(self) -> None:
        """Send waiting pictures to the actors that have room."""
        for task in [*self._waiting]:
            free = [actor for actor in self._actors if actor.is_ready and len(actor.open) < self._limit(actor, task)]
            if free:
                self._waiting.remove(task)
                self._send(min(free, key=lambda actor: len(actor.open)), task)

    def _limit(self, actor: _ActorState, task: PaintTask) -> int:
        """Return how many pictures an actor may hold: a single one if a worker died with it, or with this one."""
        return 1 if self._deaths.keys() & {task.number, *actor.open} else PICTURES_PER_WORKER

    def _send(self, actor: _ActorState, task: PaintTask) -> None:
        """Send a picture to an actor, with the bytes of its inputs on this machine."""
        inputs = (task.content, *task.styles, *(path for _, path in task.masks))
        paths = tuple(dict.fromkeys(path for path in inputs if not discover.is_url(path)))
        try:
            data = [self._load(path, store=path in task.styles) for path in paths]
        except StylerError as problem:
            self._inbox += [WorkerReport(task.number, "started"), WorkerReport(task.number, "failed", str(problem))]
            return
        actor.open[task.number] = task
        call = actor.handle.paint.remote(replace(task, precision=self.precision), paths, *data)
        self._calls[call] = partial(self._handle_painted, actor, task)

    def _load(self, path: str, *, store: bool) -> Any:
        """Return the bytes of a file, or a reference to them in Ray's object store."""
        if path in self._stored:
            return self._stored[path]
        data = fetch_image_bytes(path)
        if not store:
            return data
        while len(self._stored) >= MAX_STYLES_STORED:
            del self._stored[next(iter(self._stored))]
        self._stored[path] = self._ray.put(data)
        return self._stored[path]

    def _wait(self, seconds: float) -> None:
        """Wait for the answer to any call and handle it.

        Raises:
            StylerError: all workers are lost, or one cannot be prepared.
        """
        for actor in self._actors:
            if actor.open and not actor.is_asked and time.monotonic() >= actor.next_ask:
                actor.is_asked, actor.next_ask = True, time.monotonic() + REPORT_SECONDS
                call = actor.handle.take_reports.remote(stop=self._is_stopped)
                self._calls[call] = partial(self._handle_reports, actor)
        if not self._actors and not self._calls:
            raise StylerError(
                f"All workers of the cluster are lost ({self._last_loss}); repair the cluster, then run the same "
                "command again."
            )
        if not self._calls:  # all pictures are being written
            self._woken.wait(seconds)
            self._woken.clear()
            return
        answered, _ = self._ray.wait([*self._calls], num_returns=1, timeout=seconds)
        for call in answered:
            self._calls.pop(call)(call)

    def _handle_ready(self, actor: _ActorState, call: Any) -> None:
        """Mark an actor as ready; drop one that Ray no longer restarts."""
        errors = self._ray.exceptions
        try:
            precision = self._ray.get(call)
            actor.is_ready = True
            self.precision = precision if self.precision == "auto" else self.precision
        except errors.ActorUnavailableError:  # it is being restarted
            time.sleep(RESTART_SECONDS)
            self._prepare(actor)
        except errors.RayActorError as problem:
            self._actors.remove(actor)
            self._last_loss = str(problem).partition("\n")[0]
        except errors.RayTaskError as problem:
            if isinstance(problem.cause, StylerError):
                raise type(problem.cause)(str(problem.cause)) from problem
            raise StylerError(
                f"A worker of the cluster cannot start ({str(problem.cause).strip().splitlines()[-1]}); install the "
                "same versions of styler, PyTorch and Python on every machine."
            ) from problem

    def _handle_reports(self, actor: _ActorState, call: Any) -> None:
        actor.is_asked = False
        errors = self._ray.exceptions
        with suppress(errors.RayActorError, errors.ObjectLostError):  # the calls of `paint` fail, too
            self._inbox += [report for report in self._ray.get(call) if report.number in actor.open]

    def _handle_painted(self, actor: _ActorState, task: PaintTask, call: Any) -> None:
        """Take the final report of a picture, or handle the death of its actor."""
        del actor.open[task.number]
        try:
            reports = self._ray.get(call)
        except self._ray.exceptions.RayTaskError:  # a bug
            raise
        except self._ray.exceptions.RayError:
            self._handle_death(actor, task)
            return
        if reports is None:
            self._prepare(actor)
            self.submit(task)
            return
        self._deaths.pop(task.number, None)
        self._inbox += reports

    def _handle_death(self, actor: _ActorState, task: PaintTask) -> None:
        """Give a picture to another worker, unless several died with it."""
        self._deaths[task.number] = self._deaths.get(task.number, 0) + 1
        if actor.is_ready and actor in self._actors:
            self._prepare(actor)
        if self._deaths[task.number] < MAX_DEATHS:
            self._inbox.append(WorkerReport(task.number, "note", "Its worker died; another worker starts it again."))
            self.submit(task)
            return
        message = (
            f"{MAX_DEATHS} workers died while they painted this picture, perhaps out of memory; use a smaller --size "
            "or give each worker more memory."
        )
        self._inbox.append(WorkerReport(task.number, "failed", message))
