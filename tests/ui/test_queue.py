"""Tests of the queue without a browser: whose turn it is, what visitors are told, and how long work takes."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

import gradio as gr
import pytest
from coroutines import run_coroutine

from styler import library
from styler.options import PRESETS, Options
from styler.schedule import Scale, Schedule, build_schedule
from ui import controls, queue
from ui.queue import PainterThread, Place, QueueFull
from ui.session import Upload
from ui.studio import FIXED_SECONDS, TYPICAL_RATES, Studio, WorkEstimate


class Clock:
    """A clock that work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A painter, the clock by which it works, and the order in which work has begun."""

    def __init__(self) -> None:
        self.clock, self.order = Clock(), list[str]()
        self.stopped = list[str]()
        self.thread = PainterThread(self.clock)

    def work(self, name: str, seconds: float = 0.0) -> Generator[str, None, None]:
        self.order.append(name)
        self.clock.now += seconds
        yield name

    def run(self, name: str, seconds: float | None = None, key: str = "") -> AsyncGenerator[str | Place | None, None]:
        """Return work that takes as long as it is expected to, by the visitor of that name unless another is given."""
        work = self.work(name, seconds or 0.0)
        return self.thread.run(work, lambda: self.stopped.append(name), key or name, seconds)

    async def occupy(self, seconds: float | None) -> AsyncGenerator[str | Place | None, None]:
        """Begin work that is expected to take some seconds and ends when it is closed."""
        items = self.thread.run(self.work("first"), lambda: None, "first", seconds)
        assert await anext(items) == "first"
        return items

    async def join(self, name: str, seconds: float | None, key: str = "") -> tuple[Any, Place]:
        """Put work in the line; return its generator and the place that its visitor is told."""
        items = self.run(name, seconds, key)
        place = await anext(items)
        assert isinstance(place, Place)
        return items, place


async def drain(items: AsyncGenerator[Any, None]) -> list[Any]:
    return [item async for item in items if item is not None and not isinstance(item, Place)]


async def finish(first: AsyncGenerator[Any, None], *others: AsyncGenerator[Any, None]) -> None:
    """End the work that occupies the painter, then let all others do theirs."""
    await first.aclose()
    await asyncio.gather(*map(drain, others))


def test_who_has_painted_least_goes_first_and_ties_go_by_arrival() -> None:
    async def check(line: Line) -> None:
        await drain(line.run("much", 30))
        await drain(line.run("little", 10))
        first = await line.occupy(100)
        others = [(await line.join(name, 5))[0] for name in ("much", "little", "new", "newer")]
        await finish(first, *others)

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["much", "little", "first", "new", "newer", "little", "much"]


def test_several_requests_of_one_visitor_do_not_hold_up_another() -> None:
    async def check(line: Line) -> None:
        first = await line.occupy(100)
        others = [(await line.join(f"greedy {number}", 10, "greedy"))[0] for number in range(3)]
        others.append((await line.join("modest", 10))[0])
        await finish(first, *others)

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["first", "greedy 0", "modest", "greedy 1", "greedy 2"]


def test_a_newcomer_does_not_break_what_others_were_told() -> None:
    async def check(line: Line) -> None:
        await drain(line.run("earlier", 50))
        first = await line.occupy(100)
        earlier, place = await line.join("earlier", 10)
        assert place.ahead == 0
        assert place.seconds == pytest.approx(110)
        newcomers = [await line.join(f"new {number}", 12) for number in range(4)]
        # To begin after 100 s was expected, and after 1.2 × 110 + 1 s is the promise: two of 12 s fit.
        assert [place.ahead for _, place in newcomers] == [0, 1, 3, 4]
        await finish(first, earlier, *(items for items, _ in newcomers))

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["earlier", "first", "new 0", "new 1", "earlier", "new 2", "new 3"]


def test_work_of_unknown_duration_waits_in_the_order_of_arrival() -> None:
    async def check(line: Line) -> None:
        line.thread._painted["rich"] = 99
        first = await line.occupy(None)
        rich, place = await line.join("rich", None)
        assert place == Place(0, None)
        poor, place = await line.join("poor", None)
        assert place == Place(1, None)
        await finish(first, rich, poor)

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["first", "rich", "poor"]


def test_unknown_work_is_expected_to_take_as_long_as_finished_work() -> None:
    async def check(line: Line) -> None:
        await drain(line.run("a", 20))
        first = await line.occupy(None)
        assert (await line.join("b", None))[1].seconds == pytest.approx(22)
        await first.aclose()

    run_coroutine(check(Line()))


def test_work_can_correct_how_long_it_takes() -> None:
    async def check(line: Line) -> None:
        first = await line.occupy(None)
        for seconds, told in ((40, 44), (None, 44)):
            line.thread.expect_duration(seconds)
            items, place = await line.join("next", 5)
            assert place.seconds == pytest.approx(told)
            await items.aclose()
        await first.aclose()

    run_coroutine(check(Line()))


def test_the_queue_refuses_more_than_its_limit() -> None:
    async def check(line: Line) -> None:
        line.thread.max_waiting = 1
        first = await line.occupy(10)
        second, _ = await line.join("second", 10)
        with pytest.raises(QueueFull, match="The queue is full; try again in a few minutes"):
            await anext(line.run("third"))
        await second.aclose()
        fourth, _ = await line.join("fourth", 10)
        assert line.thread.is_full
        await finish(first, fourth)
        assert (line.thread.is_busy, line.thread.is_full) == (False, False)

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["first", "fourth"]


def test_an_empty_queue_takes_work_whatever_its_limit() -> None:
    line = Line()
    line.thread.max_waiting = 0
    assert run_coroutine(drain(line.run("only"))) == ["only"]


def test_canceled_work_leaves_the_line_at_once_and_never_begins() -> None:
    async def check(line: Line) -> None:
        first = await line.occupy(10)
        second, _ = await line.join("second", 10)
        third, place = await line.join("third", 10)
        assert place.ahead == 1
        waiting = asyncio.create_task(anext(second))
        await asyncio.sleep(0)  # it waits now
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [ticket.key for ticket in line.thread._waiting] == ["third"]
        await finish(first, third)

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["first", "third"]
    assert line.stopped == ["third"], "work that has not begun has nothing to stop"


def test_a_visitor_who_leaves_is_forgotten() -> None:
    async def check(line: Line) -> None:
        await drain(line.run("leaver", 50))
        first = await line.occupy(10)
        leaver, _ = await line.join("leaver", 10)
        waiting = asyncio.create_task(drain(leaver))
        await asyncio.sleep(0)  # it waits now
        line.thread.forget("leaver")
        assert line.thread._waiting == []
        assert await waiting == []
        assert "leaver" not in line.thread._painted
        line.thread.forget("first")
        await first.aclose()
        assert line.thread._painted == {}, "nor is the time of the work that was canceled by leaving kept"

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["leaver", "first"]


def test_nobody_is_never_forgotten_because_others_have_the_same_name() -> None:
    async def check(line: Line) -> None:
        first = await line.occupy(10)
        waiting, _ = await line.join("call", 10, queue.NOBODY)
        line.thread.forget(queue.NOBODY)
        await finish(first, waiting)

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["first", "call"]


def test_the_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_ACCOUNTS", 3)

    async def check(line: Line) -> None:
        for name in ("a", "b", "c", "a", "d"):
            await drain(line.run(name, 1))

    line = Line()
    run_coroutine(check(line))
    assert line.thread._painted == {"c": 1, "a": 2, "d": 1}


def test_the_wait_that_is_told_follows_the_work_but_not_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PLACE_SECONDS", 0.0)

    async def check(line: Line) -> None:
        first = await line.occupy(100)
        items, place = await line.join("second", 10)
        told = [place.seconds]
        for now, own in ((10, None), (50, 55), (50, 75), (99, 1), (103, 0.2), (104, 30)):
            line.clock.now = now
            line.thread.expect_end(own)
            place = await anext(items)
            assert isinstance(place, Place)
            told.append(place.seconds)
        await finish(first, items)
        assert told == [pytest.approx(seconds, abs=0.1) for seconds in (110, 99, 57.8, 68.8, 1.1, 0.2, 33)]

    run_coroutine(check(Line()))


def test_a_wait_that_is_a_little_too_short_is_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PLACE_SECONDS", 0.0)

    async def check(line: Line) -> None:
        first = await line.occupy(None)
        line.thread.expect_end(20)
        items, place = await line.join("second", 10)
        assert place.seconds == pytest.approx(22)
        line.thread.expect_end(21)
        place = await anext(items)
        assert place.seconds == pytest.approx(22)
        line.thread.expect_end(19)
        place = await anext(items)
        assert place.seconds == pytest.approx(20.9)
        await first.aclose()

    run_coroutine(check(Line()))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place(0, None), "You are next."),
        (Place(0, 0.2), "You are next; painting starts in a moment."),
        (Place(0, 4.4), "You are next; painting starts in about 4 s."),
        (Place(2, 12.4), "You are number 3 in the queue; painting starts in about 12 s."),
        (Place(1, 200), "You are number 2 in the queue; painting starts in about 3 min 20 s."),
    ],
)
def test_the_place_is_described_in_a_sentence(place: Place, text: str) -> None:
    assert place.describe() == text


def test_closing_slow_work_does_not_wait_for_it_but_the_next_work_does() -> None:
    stop, release, order = threading.Event(), threading.Event(), []

    def work() -> Generator[int, None, None]:
        try:
            yield 1
            release.wait(60)  # a step that does not look at `stop`
            yield 2
        finally:
            order.append(threading.current_thread().name)

    def next_work() -> Generator[int, None, None]:
        order.append("next")
        yield 3

    async def run_and_close() -> list[Any]:
        thread = PainterThread()
        items = thread.run(work(), stop.set)
        seen = [await anext(items) for _ in range(3)]
        await items.aclose()
        assert (stop.is_set(), order) == (True, [])  # although the step has not ended
        release.set()
        return [*seen, *await drain(thread.run(next_work(), stop.set))]

    assert run_coroutine(run_and_close()) == [1, None, None, 3]
    assert order == ["painter_0", "next"]


def test_an_error_in_the_work_is_raised_and_the_next_begins() -> None:
    def fail() -> Generator[str, None, None]:
        yield "began"
        raise ValueError("broken")

    async def check(line: Line) -> None:
        items = line.thread.run(fail(), lambda: None)
        assert await anext(items) == "began"
        other, _ = await line.join("other", 1)
        with pytest.raises(ValueError, match="broken"):
            await drain(items)
        assert await drain(other) == ["other"]

    run_coroutine(check(Line()))


class Idle:
    """Work for idle times: its first step returns at once, its second one only when it is stopped."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order
        self.stop, self.is_in_second_step = threading.Event(), threading.Event()

    def work(self) -> Generator[str, None, None]:
        try:
            self.order.append(f"{self.name} begins")
            yield self.name
            self.is_in_second_step.set()
            assert self.stop.wait(60)
            yield "too late"
        finally:
            self.order.append(f"{self.name} is closed")

    def run(self, line: Line, key: str = "dreamer") -> AsyncGenerator[str | None, None]:
        return line.thread.run_when_idle(self.work(), self.stop.set, key)


def test_idle_work_gives_way_at_once_and_can_ask_again() -> None:
    async def check(line: Line) -> None:
        idle = Idle("idle", line.order)
        items = idle.run(line)
        assert await anext(items) == "idle"
        rest = asyncio.create_task(drain(items))
        await asyncio.to_thread(idle.is_in_second_step.wait, 60)
        assert not line.thread.is_busy
        first = line.run("first", 10)
        assert await anext(first) == "first"
        assert idle.stop.is_set()
        assert await rest == [], "what the interrupted step yields is lost, and the generator ends"
        assert line.order == ["idle begins", "idle is closed", "first"]

        again = Idle("again", line.order).run(line)
        assert await anext(again) is None, "it waits while somebody paints"
        second, _ = await line.join("second", 10)
        await finish(first, second)
        assert [item async for item in _until_item(again)][-1] == "again"
        await again.aclose()

    line = Line()
    run_coroutine(check(line))
    line.thread.executor.shutdown()
    assert line.order[2:] == ["first", "second", "again begins", "again is closed"]


async def _until_item(items: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async for item in items:
        yield item
        if item is not None:
            return


def test_idle_work_makes_room_for_who_has_clicked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(line: Line) -> None:
        idle = Idle("idle", line.order)
        items = idle.run(line)
        assert await anext(items) == "idle"
        line.thread.announce()
        assert idle.stop.is_set()
        assert await drain(items) == []
        again = Idle("again", line.order).run(line)
        assert await anext(again) is None, "it waits for the one who has clicked"
        assert await drain(line.run("first", 10)) == ["first"]
        assert [item async for item in _until_item(again)][-1] == "again", "the wait ends with the one who came"
        await again.aclose()

        monkeypatch.setattr(queue, "HOLD_SECONDS", 0.01)
        line.thread.announce()
        line.thread.announce()
        last = Idle("last", line.order).run(line)
        assert [item async for item in _until_item(last)] == [None, "last"], "nobody came"
        await last.aclose()

    line = Line()
    run_coroutine(check(line))
    line.thread.executor.shutdown()
    begun = [name for name in line.order if not name.endswith("closed")]
    assert begun == ["idle begins", "first", "again begins", "last begins"]


def test_idle_work_whose_reader_is_slow_is_closed_before_the_painting() -> None:
    async def check(line: Line) -> None:
        idle = Idle("idle", line.order)
        items = idle.run(line)
        assert await anext(items) == "idle"
        assert await drain(line.run("first", 10)) == ["first"]  # while nobody reads `items`
        assert await drain(items) == []

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["idle begins", "idle is closed", "first"]


def test_idle_work_does_not_count_as_painting() -> None:
    async def check(line: Line) -> None:
        await drain(line.run("someone", 50))
        assert await anext(Idle("idle", line.order).run(line)) == "idle"
        items = line.run("first", None, "dreamer")
        assert await anext(items) == "first"
        current = line.thread._current
        assert current is not None
        assert (current.key, current.rank) == ("dreamer", 0.0)
        await items.aclose()

    run_coroutine(check(Line()))


def test_idle_works_take_turns() -> None:
    async def check(line: Line) -> None:
        one = line.thread.run_when_idle(line.work("one"), lambda: None)
        assert await anext(one) == "one"
        two = line.thread.run_when_idle(line.work("two"), lambda: None)
        three = line.thread.run_when_idle(line.work("three"), lambda: None)
        assert await anext(two) is None
        assert await anext(three) is None
        await two.aclose()  # it has gone before its turn
        assert await drain(one) == []
        assert await drain(three) == ["three"]

    line = Line()
    run_coroutine(check(line))
    assert line.order == ["one", "three"]


def test_idle_work_of_a_visitor_who_leaves_ends() -> None:
    async def check(line: Line) -> None:
        idle, waiting = Idle("idle", line.order), Idle("waiting", line.order)
        items = idle.run(line)
        assert await anext(items) == "idle"
        others = waiting.run(line)
        assert await anext(others) is None
        line.thread.forget("dreamer")
        assert idle.stop.is_set()
        assert await drain(items) == await drain(others) == []

    line = Line()
    run_coroutine(check(line))
    line.thread.executor.shutdown()
    assert line.order == ["idle begins", "idle is closed"]


def test_components_that_an_event_does_not_change_are_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with gr.Blocks() as page:
        one, two, three = (gr.HTML(text) for text in ("one", "two", "three"))
        gr.Button().click(lambda: None, None, [one, two, three])
    queue.open_queue(page, 1)
    (event,) = page.fns.values()
    built: list[gr.HTML] = []
    build = gr.HTML.__init__

    def count_and_build(component: gr.HTML, **settings: Any) -> None:
        built.append(component)
        build(component, **settings)

    monkeypatch.setattr(gr.HTML, "__init__", count_and_build)

    def send(changes: Any) -> Any:
        return run_coroutine(page.postprocess_data(event, changes, None))

    hidden = gr.update(visible=False)
    assert send(gr.skip()) == [gr.skip()] * 3
    assert send({two: "new"}) == [gr.skip(), "new", gr.skip()]
    assert not built
    *values, change = send({three: hidden, one: "first"})
    assert (values, change["visible"]) == (["first", gr.skip()], False)
    assert len(built) == 1
    assert send(("a", "b", "c")) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="not specified as output"):
        send({one: "first", gr.HTML(render=False): "elsewhere"})


def paint(schedule: Schedule, fixed: float = 0.4) -> tuple[tuple[float, ...], float]:
    """Return how long a machine takes for each scale and in total, with 2 µs for each pixel and 10 ms for an iteration.

    The slim network is a little faster than its cost says.
    """
    seconds = tuple(
        (each.iterations + 1) * (0.01 + 2e-6 * each.cost * (0.9 if each.sketch else 1)) for each in schedule
    )
    return seconds, sum(seconds) + fixed


SMALL_RATE = TYPICAL_RATES[False, 0]
"""Typical seconds per cost of a small scale, relative to those of a large one."""


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [256, 512])
def test_estimates_converge(preset: str, size: int) -> None:
    estimate = WorkEstimate()
    assert estimate.estimate_seconds(build_schedule(Options(), 640, 480, 16)) is None
    estimate.guess_rate(Scale(128, 96, 1, "adam"), 1.0)  # far too slow
    for _ in range(20):
        for name in PRESETS:
            for each in (256, 512):
                schedule = build_schedule(Options.of(preset=name, size=each), 640, 480, 16)
                estimate.add_schedule(schedule, *paint(schedule))
    schedule = build_schedule(Options.of(preset=preset, size=size), 480, 640, 16)
    assert estimate.estimate_seconds(schedule) == pytest.approx(paint(schedule)[1], rel=0.1)


def test_what_was_not_painted_yet_is_estimated_from_the_most_similar() -> None:
    estimate = WorkEstimate()
    small, large = Scale(100, 100, 9, "adam"), Scale(1000, 1000, 9, "adam")
    for seconds in (0.7, 0.1, 0.3):  # the first one is slow, and other programs run
        estimate.guess_rate(small, seconds)
    assert estimate.estimate_seconds((large,)) == pytest.approx(FIXED_SECONDS + 10 * 10 / SMALL_RATE)
    estimate.add_schedule((small,), (2.0,), 2.0 + FIXED_SECONDS)
    assert estimate.estimate_seconds((large,)) == pytest.approx(FIXED_SECONDS + 100 * 2 / SMALL_RATE)
    sketch = Scale(1000, 1000, 9, "adam", sketch=True)
    estimate.add_schedule((sketch,), (30.0,), 30.0 + FIXED_SECONDS)
    assert estimate.estimate_seconds((sketch, sketch)) == pytest.approx(FIXED_SECONDS + 60)
    assert estimate.estimate_seconds((large,)) == pytest.approx(FIXED_SECONDS + 200 / SMALL_RATE), (
        "the same network first"
    )


def test_a_scale_that_was_there_already_does_not_count() -> None:
    estimate, scales = WorkEstimate(), (Scale(100, 100, 9, "adam"), Scale(1000, 1000, 9, "adam"))
    estimate.add_schedule(scales, (2.0, 100.0), 102.0 + FIXED_SECONDS)
    for _ in range(9):
        estimate.add_rates(scales, (0.0, 100.0))
    assert estimate.estimate_seconds(scales) == pytest.approx(FIXED_SECONDS + 102)


def test_one_exceptional_picture_changes_little() -> None:
    estimate, scale = WorkEstimate(), Scale(100, 100, 9, "adam")
    for seconds in (10.0, 1000.0):  # the computer slept
        estimate.add_schedule((scale,), (seconds,), seconds + FIXED_SECONDS)
    assert estimate.estimate_seconds((scale,)) == pytest.approx(FIXED_SECONDS + 16)


@pytest.fixture
def studio(use_tiny: None) -> Iterator[Studio]:
    """Create a studio with the tiny network, whose machine takes 1 µs for each pixel."""
    studio = Studio()
    studio.load_painter()
    studio.work_estimate.guess_rate(Scale(1000, 1000, 1, "adam"), 1.0)
    yield studio
    studio.close()


def test_the_time_of_a_request_is_estimated(studio: Studio) -> None:
    fixed = FIXED_SECONDS
    whole = Options(size=100, first_size=64, iterations=99, multiscale=0, brushwork=0)
    assert studio.estimate_seconds(whole, 400, 200) == pytest.approx(fixed + SMALL_RATE * 100 * 100 * 50 * 1e-6)
    assert studio.estimate_seconds(whole.replace(time=30), 400, 200) == 30
    assert studio.estimate_seconds(whole.replace(strength=0), 400, 200) == fixed
    large = studio.estimate_seconds(whole.replace(size="original", first_size=1000), 1000, 1000)
    assert large == pytest.approx(fixed + 100 * 1.0)
    assert studio.estimate_seconds(whole, 4000, 20) is None, "too narrow for the network"
    assert studio.estimate_seconds(whole.replace(backbone="vgg19", style_layers=("relu3_4",)), 400, 200) is None


def test_a_picture_in_tiles_is_expected_to_take_as_long_as_its_plan_says(studio: Studio) -> None:
    options = Options(size=1024, first_size=1024, iterations=9, multiscale=0, brushwork=0)
    as_a_whole = studio.estimate_seconds(options, 400, 300)
    studio._usable_memory = 400_000_000
    in_tiles = studio.estimate_seconds(options, 400, 300)
    assert as_a_whole is not None
    assert in_tiles is not None
    assert 1.5 < (in_tiles - FIXED_SECONDS) / (as_a_whole - FIXED_SECONDS) < 4
    studio._usable_memory = 1_000_000
    assert studio.estimate_seconds(options, 400, 300) is None, "it does not fit"


def test_the_speed_is_learned_from_pictures_in_tiles(studio: Studio) -> None:
    scale = Scale(1000, 1000, 9, "adam")
    for _ in range(20):
        studio.work_estimate.add_schedule((scale,), (30.0,), 30.0 + FIXED_SECONDS, [3 * 10 * scale.cost])
    assert studio.work_estimate.estimate_seconds((scale,)) == pytest.approx(10 + FIXED_SECONDS)
    assert studio.work_estimate.estimate_seconds((scale,), [20 * scale.cost]) == pytest.approx(20 + FIXED_SECONDS)


def test_nothing_is_known_before_the_weights_are_loaded(use_tiny: None) -> None:
    studio = Studio()
    try:
        assert studio.estimate_seconds(Options(), 400, 300) is None
        studio.warm_up()
        assert (studio.estimate_seconds(Options(), 400, 300) or 0) > 0
    finally:
        studio.close()


def test_the_times_of_the_presets_are_those_after_choosing_them(studio: Studio) -> None:
    for options in (Options(), Options.of(preset="fine", look="gatys", size=256), Options(iterations=7)):
        times = studio.estimate_times(options, 640, 480)
        assert list(times) == list(PRESETS)
        for preset, seconds in times.items():
            values = controls.values_from_options(options.replace(preset=preset))
            changed = controls.apply_bundle("preset", *values)
            names = controls.list_bundle_options("preset")
            chosen = options.replace(preset=preset, **dict(zip(names, changed, strict=True)))
            if preset == options.preset:  # what has been changed since counts
                chosen = options
            assert seconds == studio.estimate_seconds(chosen, 640, 480)
    times = studio.estimate_times(Options(), 640, 480)
    assert (times["draft"] or 0) < (times["standard"] or 0) < (times["fine"] or 0)


def test_a_photo_counts_with_its_size_once_it_was_read(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [Upload.from_path(path) for path in library.list_contents().values()]
    options = Options()
    assert studio.estimate_photo(photos[0], options) == studio.estimate_seconds(options, 1, 1)
    assert studio.estimate_photo(photos[0], options.replace(size="original")) is None
    picture = studio.read_picture(photos[0])
    assert studio.estimate_photo(photos[0], options) == studio.estimate_seconds(options, picture.width, picture.height)
    monkeypatch.setattr("ui.studio.MAX_SIZES", 2)
    for photo in photos[:3]:
        studio.read_picture(photo)
    assert len(studio._sizes) == 2
