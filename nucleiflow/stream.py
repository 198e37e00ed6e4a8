"""Slides on their way -> one stream of tiles over all workers, and what becomes of failures. Pure.

A slide is a generator of stages; whoever has the lowest number and tiles that may run goes first.
Workers therefore never wait for one slide's merge, and few slides are open at a time.
"""

from __future__ import annotations

import heapq
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nucleiflow.errors import RunError, StoreError
from nucleiflow.runs import Runs
from nucleiflow.slots import LANES, Slots
from nucleiflow.snapshot import SlideState, Snapshot

if TYPE_CHECKING:  # workers take `Reply` from here, and need not load how a job is written
    from nucleiflow.config import Failure

Task = Callable[[int], None]

ALONE_DEATHS = 2  # workers that a tile must kill while it is alone on them, to be blamed
UNSURE = 0.125  # what a death counts if the tile may never have reached that worker
BUNDLE_SECONDS, BUNDLE_TILES = 0.25, 64  # quick tiles travel together
TICK_SECONDS = 0.2
AHEAD = 2  # slides that are ready for the network while another is in it
AT_FIRST = 4  # slides that are opened while there are no workers yet


@dataclass(frozen=True)
class Reply:
    """What a worker says of a bundle: each tile and its error or None; its peak memory, bytes."""

    outcomes: tuple[tuple[int, Exception | None], ...]
    seconds: float
    process: int
    peak_bytes: int


@dataclass(frozen=True)
class Ended:
    """The end of a bundle: a reply, an error of the transport, or neither: its worker died.

    `began` is False where it is not sure that the bundle ever reached that worker.
    """

    ticket: int
    reply: Reply | None = None
    error: Exception | None = None
    began: bool = True


class Pool(Protocol):
    """Workers, known by address, that run bundles of tiles where they are told to.

    `advance` runs a step of a slide beside the stream or at once; `most_open` bounds the slides
    on their way. Every bundle ends in exactly one `Ended` given to the listener, from any thread.
    """

    most_open: int | None

    def listen(self, listener: Callable[[Ended], None]) -> None: ...
    def begin(self) -> None:
        """Wait until there are workers: called once, when there are tiles for them."""
        ...

    def workers(self) -> dict[str, int]:
        """Threads of each worker that is connected. Raises RunError if the cluster is gone."""
        ...

    def submit(self, ticket: int, task: Task, tiles: Sequence[int], worker: str) -> None: ...
    def advance(self, step: Callable[[], None]) -> None: ...
    def close(self) -> None:
        """Forget all bundles in flight."""
        ...


@dataclass(frozen=True)
class Stage:
    """Tiles that may run in any order, at once; the next stage begins when all are done.

    `total` counts the tiles of the stage, those of an earlier attempt included. `done(tile)` says
    whether a tile has its record, `hole(tile, reason)` writes down that it never will: without
    it, a bad tile fails its slide. The stage's tiles hold `tile_megapixels` each.
    """

    name: str
    task: Task
    tiles: Sequence[int]
    total: int
    tile_megapixels: float
    done: Callable[[int], bool] = lambda _: False
    hole: Callable[[int, str], None] | None = None
    lane: str = "other"


Flow = Generator[Stage, None, dict[str, Any]]
Start = Callable[[], Flow]


class Watch(Protocol):
    """Told, in the stream's own thread, what happens."""

    def ended(self, number: int, word: dict[str, Any] | Exception) -> None: ...
    def say(self, text: str) -> None: ...
    def tick(self, now: Snapshot) -> None: ...


@dataclass
class _Trouble:
    """What befell one tile so far."""

    failures: int = 0
    deaths_alone: float = 0.0
    avoid: str = ""


@dataclass
class _Course:
    """One slide on its way."""

    number: int
    flow: Flow
    began: float
    stage: Stage | None = None
    runs: Runs = field(default_factory=lambda: Runs(()))  # tiles that were never submitted
    left: int = 0  # tiles of the stage that are not settled
    trouble: dict[int, _Trouble] = field(default_factory=dict)

    def waits(self, lane: str | None = None) -> int:
        """Tiles of the stage that were never submitted, if it is of this lane."""
        if self.stage is None or lane not in (None, self.stage.lane):
            return 0
        return self.runs.waiting


_Again = tuple[float, int, _Course, Stage, int]  # when, a number that orders, and the tile


@dataclass(frozen=True)
class _Flight:
    course: _Course
    stage: Stage
    tiles: tuple[int, ...]
    worker: str
    alone: bool


class Stream:
    """Takes slides through their stages on a pool; `run` returns when all have ended."""

    def __init__(self, pool: Pool, failure: Failure, watch: Watch) -> None:
        self.snapshot = Snapshot()
        self.peak_bytes: dict[int, int] = {}
        self._pool, self._failure, self._watch = pool, failure, watch
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._slots = Slots(pool.workers)
        self._courses: dict[int, _Course] = {}
        self._ready: dict[str, list[int]] = {lane: [] for lane in LANES}
        self._suspects: deque[tuple[_Course, Stage, int]] = deque()
        self._again: list[_Again] = []  # a heap: tiles that failed, and when they are due
        self._flights: dict[int, _Flight] = {}
        self._advancing: set[int] = set()
        self._pace: dict[str, float] = {}  # seconds per tile of a stage, lately
        self._ticket = self._order = 0
        self._working = False
        self._began = time.monotonic()

    def run(self, slides: Sequence[SlideState], starts: Iterator[Start]) -> None:
        """All slides to their ends. Raises RunError if the cluster is gone."""
        self.snapshot.slides = list(slides)
        waiting = enumerate(starts)
        more = True
        self._pool.listen(self._events.put)
        told = 0.0
        try:
            while True:
                self._begin()
                self._slots.refresh()
                more = more and self._open(waiting)
                self._dispatch()
                if not (more or self._courses or self._advancing):
                    return
                self._hear()
                if time.monotonic() - told >= TICK_SECONDS:
                    told = time.monotonic()
                    self._tick()
        finally:
            self._pool.close()
            self._tick()

    @property
    def demand(self) -> int:
        """Workers that could have work now, at one tile for each thread."""
        per_worker = max(1, self._slots.total // max(1, len(self._slots.threads)))
        tiles = sum(course.left for course in list(self._courses.values()))
        slides = sum(one.state == "waiting" for one in self.snapshot.slides)
        return -(-tiles // per_worker) + slides

    def _begin(self) -> None:
        """The pool begins with the first tiles: slides that are done, or bad, need no workers."""
        if not self._working and any(course.left for course in self._courses.values()):
            self._pool.begin()
            self._working = True

    def _hear(self) -> None:
        """Wait for something to happen, and deal with all that has."""
        try:
            event = self._events.get(timeout=TICK_SECONDS)
            while True:
                self._settle(event) if isinstance(event, Ended) else event()
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _tick(self) -> None:
        now = self.snapshot
        now.elapsed = time.monotonic() - self._began
        now.in_flight, now.workers = len(self._flights), len(self._slots.threads)
        for course in self._courses.values():
            now.slides[course.number].seconds = time.monotonic() - course.began
        self._watch.tick(now)

    # slides: begun while there is room, taken from stage to stage, ended

    def _open(self, waiting: Iterator[tuple[int, Start]]) -> bool:
        """Begin slides while slots lack work; False when none is left to begin."""
        most = self._pool.most_open or max(2, self._wish)
        while len(self._courses) < most and not self._enough():
            try:
                number, start = next(waiting)
            except StopIteration:
                return False
            self.snapshot.slides[number].state = "running"
            self._courses[number] = _Course(number, start(), time.monotonic())
            self._advance(self._courses[number])
        return True

    @property
    def _wish(self) -> int:
        """How many bundles should be at hand."""
        return self._slots.total or AT_FIRST

    def _enough(self) -> bool:
        """Whether the slides on their way have tiles for every slot, of the network and others."""
        waits = {lane: [one.waits(lane) for one in self._courses.values()] for lane in LANES}
        if sum(waits["network"]) < self._wish:
            return sum(map(sum, waits.values())) + len(self._advancing) >= self._wish
        ahead = sum(amount > 0 for amount in waits["network"])
        return sum(waits["other"]) + len(self._advancing) > 0 or ahead > AHEAD

    def _advance(self, course: _Course) -> None:
        """To the next stage; the step runs in the pool's way, its end in the stream's thread."""
        course.stage = None
        self._advancing.add(course.number)

        def step() -> None:
            found: Stage | dict[str, Any] | Exception
            try:
                found = next(course.flow)
            except StopIteration as end:
                found = dict(end.value)
            except Exception as error:
                found = error
            self._events.put(lambda: self._advanced(course, found))

        self._pool.advance(step)

    def _advanced(self, course: _Course, found: Stage | dict[str, Any] | Exception) -> None:
        self._advancing.discard(course.number)
        if not isinstance(found, Stage):
            self._end(course, found)
            return
        course.stage, course.runs, course.left = found, Runs(found.tiles), len(found.tiles)
        course.trouble = {}
        state = self.snapshot.slides[course.number]
        state.begin(found.name, found.total - len(found.tiles), found.total)
        if course.left == 0:
            self._advance(course)
        else:
            heapq.heappush(self._ready[found.lane], course.number)

    def _end(self, course: _Course, word: dict[str, Any] | Exception) -> None:
        """A slide is done or has failed; what of it is still in flight no longer counts."""
        if self._courses.pop(course.number, None) is None:
            return
        course.stage = None
        self._suspects = deque(one for one in self._suspects if one[0] is not course)
        if isinstance(word, Exception):
            course.flow.close()
        self.snapshot.slides[course.number].seconds = time.monotonic() - course.began
        self._watch.ended(course.number, word)

    # tiles: to the workers

    def _dispatch(self) -> None:
        self._place_suspects()
        for lane in LANES:
            while self._slots.any(lane):
                bundle = self._failed_before(lane) or self._fresh(lane)
                if bundle is None:
                    break
                self._submit(bundle)

    def _failed_before(self, lane: str) -> _Flight | None:
        """A tile that failed and is due again, on another worker than before."""
        now, kept, found = time.monotonic(), [], None
        while found is None and self._again and self._again[0][0] <= now:
            due = heapq.heappop(self._again)
            _, _, course, stage, tile = due
            if course.stage is not stage:
                continue
            worker = None
            if stage.lane == lane:
                worker = self._slots.take(lane, course.trouble[tile].avoid)
            if worker is None:
                kept.append(due)
            else:
                found = _Flight(course, stage, (tile,), worker, alone=False)
        for due in kept:
            heapq.heappush(self._again, due)
        return found

    def _fresh(self, lane: str) -> _Flight | None:
        """The next tiles of the first slide that has some for this lane."""
        ready = self._ready[lane]
        while ready:
            course = self._courses.get(ready[0])
            waits = course.waits(lane) if course else 0
            if course is None or course.stage is None or not waits:
                heapq.heappop(ready)
                continue
            worker = self._slots.take(lane, "")
            if worker is None:
                return None
            amount = self._bundle(course.stage, waits)
            tiles = course.runs.take(worker, amount)
            return _Flight(course, course.stage, tiles, worker, alone=False)
        return None

    def _bundle(self, stage: Stage, waiting: int) -> int:
        """How many tiles travel together: a quarter of a second's worth, shared out fairly."""
        pace = self._pace.get(stage.name)
        quick = 1 if pace is None else int(BUNDLE_SECONDS / max(pace, 1e-6))
        fair = -(-waiting // max(1, self._slots.total))
        return max(1, min(quick, fair, BUNDLE_TILES, waiting))

    def _place_suspects(self) -> None:
        """A tile whose worker died runs again alone on a worker, so that no other is blamed."""
        while self._suspects:
            worker = self._slots.reserve()
            if worker is None:
                return
            course, stage, tile = self._suspects.popleft()
            self._submit(_Flight(course, stage, (tile,), worker, alone=True))
        self._slots.release()

    def _submit(self, flight: _Flight) -> None:
        self._ticket += 1
        self._flights[self._ticket] = flight
        self._pool.submit(self._ticket, flight.stage.task, flight.tiles, flight.worker)

    # tiles: from the workers

    def _settle(self, ended: Ended) -> None:
        flight = self._flights.pop(ended.ticket, None)
        if flight is None:
            return
        self._slots.give_back(flight.worker, "" if flight.alone else flight.stage.lane)
        if ended.reply:
            self._note(flight, ended.reply)
        if flight.course.stage is not flight.stage:
            return  # its slide has failed meanwhile
        if ended.reply:
            for tile, error in ended.reply.outcomes:
                self._outcome(flight, tile, error)
        elif ended.error:
            for tile in flight.tiles:
                self._outcome(flight, tile, ended.error)
        else:
            for tile in flight.tiles:
                self._died(flight, tile, began=ended.began)

    def _note(self, flight: _Flight, reply: Reply) -> None:
        self.peak_bytes[reply.process] = reply.peak_bytes
        took = reply.seconds / max(1, len(reply.outcomes))
        before = self._pace.get(flight.stage.name, took)
        self._pace[flight.stage.name] = 0.7 * before + 0.3 * took

    def _outcome(self, flight: _Flight, tile: int, error: Exception | None) -> None:
        course, stage = flight.course, flight.stage
        if course.stage is not stage:
            return
        if error is None:
            self._done(course, stage)
            return
        trouble = course.trouble.setdefault(tile, _Trouble())
        trouble.failures, trouble.avoid = trouble.failures + 1, flight.worker
        if trouble.failures > self._failure.retries:
            self._bad(course, stage, tile, error)
        elif isinstance(error, MemoryError):
            self._suspects.append((course, stage, tile))
        else:
            pause = self._failure.pause_seconds * 2 ** (trouble.failures - 1)
            self._order += 1
            due = time.monotonic() + pause, self._order, course, stage, tile
            heapq.heappush(self._again, due)

    def _died(self, flight: _Flight, tile: int, *, began: bool) -> None:
        """The worker of a tile is gone: the tile is guilty only if it was alone, and twice."""
        course, stage = flight.course, flight.stage
        if course.stage is not stage:
            return
        try:
            if stage.done(tile):
                self._done(course, stage)
                return
        except Exception as refusal:
            self._end(course, refusal)
            return
        trouble = course.trouble.setdefault(tile, _Trouble())
        trouble.deaths_alone += flight.alone * (1.0 if began else UNSURE)
        if trouble.deaths_alone < ALONE_DEATHS:
            self._suspects.append((course, stage, tile))
            return
        error = RunError(
            f"the worker died {ALONE_DEATHS} times with nothing else on it, most likely for want "
            "of memory: use a smaller --tile-px or fewer --workers"
        )
        self._bad(course, stage, tile, error)

    def _done(self, course: _Course, stage: Stage) -> None:
        state = self.snapshot.slides[course.number]
        state.tiles_done += 1
        self.snapshot.tiles_done += 1
        if stage.lane == "network":
            self.snapshot.megapixels_done += stage.tile_megapixels
        self._one_less(course)

    def _one_less(self, course: _Course) -> None:
        course.left -= 1
        if course.left == 0:
            self._advance(course)

    def _bad(self, course: _Course, stage: Stage, tile: int, error: Exception) -> None:
        """A tile that never will be done: a hole of its slide, or the slide's end."""
        name = self.snapshot.slides[course.number].name
        if stage.hole is None or self._failure.on_bad_tile != "hole" or _not_its_fault(error):
            if not any("in tile" in note for note in getattr(error, "__notes__", ())):
                error.add_note(f"in tile {tile}")
            self._end(course, error)
            return
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        try:
            stage.hole(tile, reason)
        except Exception as refusal:
            self._end(course, refusal)
            return
        self.snapshot.slides[course.number].holes += 1
        self._watch.say(f"{name}: a hole at tile {tile} ({stage.name}): {reason}")
        self._one_less(course)


def _not_its_fault(error: Exception) -> bool:
    """A disk that refuses a write says nothing about the tile."""
    return isinstance(error, StoreError)
