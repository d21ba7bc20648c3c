"""The engine of a cluster: Ray's actors around the worker that `local` has too.

An actor for each GPU (or for each so many processors) is given at most two pictures at a time, so that it reads and
encodes while its device works, and so that its end costs those two at most: they are given to others. Actors that die
are started again. The driver, which is the program that was started, sends bytes, or URLs that every machine can open;
gets pictures back as bytes; and writes them and the manifest itself. So the machines need nothing in common but
styler. The network's weights are sent once, statistics of styles are computed once on each machine.

How throughput grows with the workers. Pictures do not depend on each other, so it is workers × that of one, up to what
the driver can do. Measured (`tests/bench/driver_batch.py`): for a picture of 1.6 MB the driver needs 3.9 ms of its
processor and 36 ms of the clock beside other programs, most of it to flush three lines and two files to the disk; so it
keeps at least 28 pictures a second going, which is 280 workers that take ten seconds a picture. A cluster of more than
one machine has not been measured.

A million pictures have not been painted either; on paper:

* Listing: 200,000 pairs are planned in 5 s of the processor and 250 MB, a million in five times that; beyond, it is
  better given as several batches, by `--include` or by lists.
* Manifest: two lines a picture, 0.6 kB and twice the length of its paths, so about 1 GB, read in about 20 s when the
  batch goes on. It wants a local disk.
* Network: 1 MB in and 1.6 MB out a picture are 75 MB/s through the driver at 28 a second; with URLs of a store that all
  machines open, 45.
* Skew: pictures are given one by one to whoever has room, so that a slow machine makes fewer and none waits.
* Stragglers: at the end the last pictures run alone, for the time of one picture at most; none is painted twice to
  beat that, for it saves seconds of hours. A machine that is lost costs two pictures a worker, once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from styler import environment
from styler.batch import cluster as cluster_of
from styler.batch import places
from styler.batch.actor import LOOK, Actor
from styler.batch.tools import Cluster
from styler.batch.worker import AT_ONCE, Orders, Report, Task
from styler.engine.painter import Painter
from styler.errors import StylerError
from styler.images import Picture, fetch_image_bytes
from styler.vgg import registry

RESTARTS = 20
"""How often Ray starts an actor again."""
DEATHS = 3
"""How often a worker may die with a picture in its hands before the picture is thought to be why."""
STYLES_SENT = 64
"""Styles whose bytes stay in Ray's store."""


@dataclass(slots=True, eq=False)
class _Hand:
    """An actor, as the driver sees it."""

    actor: Any
    readying: Any = None
    """The answer to whether it is ready, until it is there."""
    looking: Any = None
    looked: float = 0.0
    open: dict[int, Task] = field(default_factory=dict)


class Ray:
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
        self, orders: Orders, decode: Callable[..., Picture], cluster: Cluster, *, shelve: bool = True
    ) -> None:
        weights = registry.load_backbone(orders.options.backbone)
        painter = Painter.of(orders.options.replace(device="cpu", precision="fp32"), weights)
        painter.ready(orders.options)  # what is wrong here is wrong for every picture
        self._ray, self._ours = cluster_of.connected(cluster)
        try:
            count, needs = cluster_of.shares(self._ray, cluster)
            # kept here, for an actor that is started again gets them once more
            self._shared = (self._ray.put(cluster_of.for_a_worker(orders, needs)), decode, self._ray.put(weights))
            self._shelve = shelve
            needs |= {"max_restarts": RESTARTS, "max_concurrency": AT_ONCE + 1}  # a thread to look with
            remote = self._ray.remote(Actor).options(
                runtime_env={"env_vars": environment.ENVIRONMENT_SETTINGS}, **needs
            )
            self._hands = [self._asked(_Hand(remote.remote())) for _ in range(count)]
        except BaseException:
            self._end()
            raise
        self.slots = AT_ONCE * count
        self._waiting: deque[Task] = deque()
        self._inbox: deque[Report] = deque()
        self._works: dict[Any, tuple[_Hand, int]] = {}
        self._deaths: dict[int, int] = {}
        self._sent: dict[str, Any] = {}
        self._halted, self._gone = False, ""
        self._woken = threading.Event()

    def submit(self, task: Task) -> None:
        """Have a picture made."""
        if self._halted:
            self._inbox.append(Report(task.number, "left"))
        else:
            self._waiting.append(task)

    def poll(self, seconds: float) -> Report | None:
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
            self._inbox += [Report(task.number, "left") for task in self._waiting]
            self._waiting.clear()

    def close(self) -> list[Report]:
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

    def _asked(self, hand: _Hand) -> _Hand:
        """Have an actor made ready."""
        hand.readying = hand.actor.ready.remote(*self._shared, shelve=self._shelve)
        return hand

    def _give(self) -> None:
        """Give waiting pictures to actors that have room; one that was lost before is given alone."""
        kept: deque[Task] = deque()
        while self._waiting:
            task = self._waiting.popleft()
            ready = [hand for hand in self._hands if hand.readying is None and self._has_room(hand, task)]
            if not ready:
                kept.append(task)
                continue
            self._send(min(ready, key=lambda hand: len(hand.open)), task)
        self._waiting = kept

    def _has_room(self, hand: _Hand, task: Task) -> bool:
        alone = task.number in self._deaths or any(number in self._deaths for number in hand.open)
        return len(hand.open) < (1 if alone else AT_ONCE)

    def _send(self, hand: _Hand, task: Task) -> None:
        """Give a picture to an actor, with the bytes of what is on this machine."""
        near = tuple(dict.fromkeys(path for path in (task.content, *task.styles) if not places.is_url(path)))
        try:
            data = [self._bytes(path, keep=path in task.styles) for path in near]
        except StylerError as problem:
            self._inbox += [Report(task.number, "started"), Report(task.number, "failed", str(problem))]
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
        while len(self._sent) >= STYLES_SENT:
            del self._sent[next(iter(self._sent))]
        self._sent[path] = self._ray.put(data)
        return self._sent[path]

    def _listen(self, seconds: float) -> None:
        """Wait for an answer of any kind, and take it in."""
        for hand in self._hands:
            if hand.open and hand.looking is None and time.monotonic() - hand.looked >= LOOK:
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

    def _is_ready(self, hand: _Hand) -> None:
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

    def _was_seen(self, hand: _Hand) -> None:
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

    def _lost(self, hand: _Hand, task: Task) -> None:
        """Give a picture to another worker, unless workers die of it."""
        self._deaths[task.number] = self._deaths.get(task.number, 0) + 1
        if hand.readying is None and hand in self._hands:
            self._asked(hand)
        if self._deaths[task.number] < DEATHS:
            self._inbox.append(Report(task.number, "note", "The worker that had it died; another one begins it anew."))
            self.submit(task)
        else:
            sentence = f"{DEATHS} workers died with this picture in their hands, perhaps for want of memory; take a "
            self._inbox.append(Report(task.number, "failed", f"{sentence}smaller --size or more memory a worker."))
