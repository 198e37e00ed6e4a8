"""Every tile of every slide is settled once, whatever dies; and only the guilty are blamed."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleiflow import pool, slots, stream
from nucleiflow.config import Failure
from nucleiflow.errors import RunError, SlideError, StoreError
from nucleiflow.snapshot import SlideState
from nucleiflow.stream import Ended, Stage, Stream

QUICK = Failure(pause_seconds=0.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(slots, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(stream, "TICK_SECONDS", 0.01)


class Killed(BaseException):
    """The death of a worker."""


class Mortal:
    """A pool whose workers are threads; a task that raises Killed takes its worker with it: all
    bundles on it end without a reply, and a new worker comes in its place.
    """

    most_open = None

    def __init__(self, workers=3, threads=2):
        self._threads = threads
        self._born = 0
        self.begun = False
        self._flying = {}
        self._lock = threading.RLock()
        self._executor = ThreadPoolExecutor(workers * threads)
        self.alive = {self._name(): threads for _ in range(workers)}
        self.most_together = 0
        self.company = []  # (tiles of a bundle that died, tiles of others on the same worker)

    def _name(self):
        self._born += 1
        return f"worker-{self._born}"

    def listen(self, listener):
        self._listener = listener

    def begin(self):
        assert not self.begun, "a pool begins once"
        self.begun = True

    def workers(self):
        with self._lock:
            return dict(self.alive) if self.begun else {}

    def submit(self, ticket, task, tiles, worker):
        with self._lock:
            if worker not in self.alive:
                self._listener(Ended(ticket))
                return
            self._flying[ticket] = worker, tiles
            here = sum(at == worker for at, _ in self._flying.values())
            self.most_together = max(self.most_together, here)
        self._executor.submit(self._work, ticket, task, tiles, worker)

    def _work(self, ticket, task, tiles, worker):
        try:
            reply = pool.perform(task, tiles)
        except Killed:
            self.kill(worker)
            return
        with self._lock:
            if self._flying.pop(ticket, None):
                self._listener(Ended(ticket, reply))

    def kill(self, worker):
        with self._lock:
            if self.alive.pop(worker, None) is None:
                return
            lost = [ticket for ticket, (at, _) in self._flying.items() if at == worker]
            self.company.append([self._flying.pop(ticket)[1] for ticket in lost])
            self.alive[self._name()] = self._threads
            for ticket in lost:
                self._listener(Ended(ticket))

    def advance(self, step):
        self._executor.submit(step)

    def close(self):
        self._executor.shutdown(wait=True, cancel_futures=True)


@dataclass
class Watch:
    ends: dict = field(default_factory=dict)
    said: list = field(default_factory=list)
    most_open: int = 0

    def ended(self, number, word):
        assert number not in self.ends, "a slide ended twice"
        self.ends[number] = word

    def say(self, text):
        self.said.append(text)

    def tick(self, now):
        self.most_open = max(self.most_open, now.count("running") - len(self.ends))


class Slides:
    """Slides of several stages that write down what became of each tile."""

    def __init__(self, sizes, misbehave=lambda where: None):
        self._sizes, self._misbehave = sizes, misbehave
        self.done, self.holes, self.attempts = [], {}, {}

    def flow(self, number):
        for name, lane in (("image", "other"), ("segment", "network"), ("label", "other")):
            tiles = range(self._sizes[number])
            yield Stage(
                name,
                lambda tile, name=name: self._work(number, name, tile),
                tiles,
                len(tiles),
                1.0,
                done=lambda tile, name=name: (number, name, tile) in self.done,
                hole=lambda tile, why, name=name: self.holes.update({(number, name, tile): why}),
                lane=lane,
            )
            assert self._settled(number, name) == set(tiles), "a stage began before its time"
        return {"nuclei": number, "holes": []}

    def _work(self, *where):
        self.attempts[where] = self.attempts.get(where, 0) + 1
        self._misbehave(where)
        self.done.append(where)

    def _settled(self, number, name):
        return {w[2] for w in [*self.done, *self.holes] if w[:2] == (number, name)}

    def run(self, workers, failure=QUICK):
        watch = Watch()
        states = [SlideState(f"slide{number}", "") for number in range(len(self._sizes))]
        driver = Stream(workers, failure, watch)
        driver.run(states, iter([lambda n=n: self.flow(n) for n in range(len(self._sizes))]))
        assert sorted(watch.ends) == list(range(len(self._sizes)))
        return watch

    def all_tiles(self):
        stages = ("image", "segment", "label")
        return {
            (n, s, t) for n, size in enumerate(self._sizes) for s in stages for t in range(size)
        }


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_each_tile_is_done_once_or_a_hole_whatever_happens(data):
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    slides = Slides(sizes)
    everything = sorted(slides.all_tiles())
    some = st.sets(st.sampled_from(everything), max_size=4) if everything else st.just(set())
    killers, raisers, moody = data.draw(some), data.draw(some), data.draw(some)

    def misbehave(where):
        time.sleep(0.0005)
        if where in killers:
            raise Killed
        if where in raisers:
            raise ValueError("broken")
        if where in moody and slides.attempts[where] < 3:
            raise OSError("not now")

    slides._misbehave = misbehave
    watch = slides.run(Mortal())
    assert not [word for word in watch.ends.values() if isinstance(word, Exception)]
    guilty = killers | raisers
    assert set(slides.holes) == guilty
    assert set(slides.done) == slides.all_tiles() - guilty
    most = {slides.attempts[where] for where in raisers - killers}
    assert all(count == QUICK.retries + 1 or (killers and count > QUICK.retries) for count in most)
    assert len(slides.done) == len(set(slides.done)) or killers, "done twice, and nobody died"


def test_the_serial_pool_is_the_same():
    slides = Slides([3, 0, 5])
    watch = slides.run(pool.Serial())
    assert slides.done == sorted(slides.done, key=lambda w: (w[0], "isl".index(w[1][0]), w[2]))
    assert [watch.ends[n]["nuclei"] for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("sizes", [[0], [0, 0, 0, 0, 0, 0]])
def test_slides_without_tiles_need_no_workers(sizes):
    workers = Mortal()
    Slides(sizes).run(workers)
    assert not workers.begun
    workers = Mortal()
    Slides([*sizes, 1]).run(workers)
    assert workers.begun


def test_a_pool_that_cannot_begin_ends_the_run(monkeypatch):
    workers = Mortal()

    def fails():
        raise RunError("no worker is ready")

    monkeypatch.setattr(workers, "begin", fails)
    with pytest.raises(RunError, match="no worker is ready"):
        Slides([1]).run(workers)


def test_a_tile_that_kills_is_blamed_when_it_is_alone_and_not_before():
    def misbehave(where):
        time.sleep(0.002)
        if where == (0, "segment", 7):
            raise Killed

    slides, workers = Slides([20], misbehave), Mortal(workers=2)
    watch = slides.run(workers)
    assert list(slides.holes) == [(0, "segment", 7)]
    assert "want of memory" in slides.holes[0, "segment", 7]
    alone = [one for one in workers.company if one == [(7,)]]
    assert len(alone) >= stream.ALONE_DEATHS, "blamed in company"
    assert len(set(slides.done)) == 59
    assert any("a hole at tile 7 (segment)" in line for line in watch.said)


def test_a_cluster_whose_workers_keep_dying_blames_nobody():
    slides, workers = Slides([30, 30]), Mortal(workers=4)
    chance = random.Random(1)

    def misbehave(where):
        time.sleep(0.001)
        if chance.random() < 0.05 and slides.attempts[where] == 1:
            raise Killed

    slides._misbehave = misbehave
    slides.run(workers)
    assert workers.company, "nobody died: the test shows nothing"
    assert not slides.holes
    assert set(slides.done) == slides.all_tiles()


def test_a_slide_that_cannot_be_opened_does_not_stop_the_others():
    slides = Slides([2, 2, 2])

    def broken(number):
        if number == 1:
            raise SlideError("no such file")
        return (yield from Slides.flow(slides, number))

    slides.flow = broken
    watch = slides.run(Mortal())
    assert isinstance(watch.ends[1], SlideError)
    assert watch.ends[0]["nuclei"] == 0
    assert watch.ends[2]["nuclei"] == 2


@pytest.mark.parametrize("error", [StoreError("the disk is full"), ValueError("broken")])
def test_a_bad_tile_fails_its_slide_where_it_may_not_be_a_hole(error):
    def misbehave(where):
        if where == (1, "label", 1):
            raise error

    slides = Slides([3, 3, 3], misbehave)
    policy = "hole" if isinstance(error, StoreError) else "fail-slide"
    watch = slides.run(Mortal(), Failure(pause_seconds=0, on_bad_tile=policy))
    assert type(watch.ends[1]) is type(error)
    assert any("in tile 1" in note for note in watch.ends[1].__notes__)
    assert not slides.holes
    assert {0, 2} <= {number for number, word in watch.ends.items() if isinstance(word, dict)}


def test_a_retry_goes_to_another_worker_after_a_pause():
    seen, workers = [], Mortal(workers=3)

    def misbehave(where):
        if where == (0, "segment", 0):
            with workers._lock:
                at = next(w for w, tiles in workers._flying.values() if tiles == (0,))
            seen.append((at, time.monotonic()))
            if len(seen) < 3:
                raise OSError("not now")

    slides = Slides([1], misbehave)
    slides.run(workers, Failure(pause_seconds=0.05))
    (one, first), (two, second), (_, third) = seen
    assert one != two
    assert second - first >= 0.05
    assert third - second >= 0.1
    assert not slides.holes


def test_few_slides_are_open_and_few_tiles_in_flight():
    slides, workers = Slides([1] * 200), Mortal(workers=2, threads=2)
    watch = slides.run(workers)
    assert len(slides.done) == 600
    assert watch.most_open <= 8
    assert workers.most_together <= 2 * (2 + 1)


def test_quick_tiles_travel_together_and_slow_ones_do_not():
    sizes, slow = [], [0.0]

    class Seen(Mortal):
        def submit(self, ticket, task, tiles, worker):
            sizes.append(len(tiles))
            super().submit(ticket, task, tiles, worker)

    slides = Slides([400, 400], lambda _: time.sleep(slow[0]))
    slides.run(Seen())
    assert max(sizes) > 10
    sizes.clear()
    slow[0] = stream.BUNDLE_SECONDS / 2
    Slides([12], lambda _: time.sleep(slow[0])).run(Seen())
    assert max(sizes) <= 2


def test_no_worker_waits_while_a_slide_is_in_its_merge():
    merging, other_worked = threading.Event(), threading.Event()

    def misbehave(where):
        if where == (0, "label", 0):  # stands for the merge: one task, and long
            merging.set()
            assert other_worked.wait(10), "the other slide waited for the merge"
        elif where[0] == 1 and where[1] == "segment" and merging.is_set():
            other_worked.set()
        elif where[0] == 1 and where[1] == "image":
            merging.wait(10)

    slides = Slides([1, 1], misbehave)
    slides.run(Mortal(workers=1, threads=2))
    assert other_worked.is_set()


def test_the_end_of_the_cluster_is_the_end_of_the_run():
    class Gone(Mortal):
        asked = 0

        def workers(self):
            self.asked += 1
            if self.asked > 20:
                raise RunError("the scheduler does not answer")
            return super().workers()

    slides = Slides([50], lambda _: time.sleep(0.01))
    with pytest.raises(RunError, match="does not answer"):
        slides.run(Gone())


def test_what_a_worker_cannot_send_is_told_in_words():
    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def task(tile):
        raise OddError(tile, lambda: None)

    ((tile, error),) = pool.perform(task, [3]).outcomes
    assert tile == 3
    assert isinstance(error, RunError)
    assert "3 and" in str(error)
    assert "in tile 3" in str(error)


def test_a_worker_that_was_already_gone_says_nothing_of_the_tile():
    """Suspects that are sent to dead addresses never ran: they are no proof, however often."""
    dead = []

    class Late(Mortal):
        def submit(self, ticket, task, tiles, worker):
            if tiles == (7,) and len(dead) < 2 * stream.ALONE_DEATHS:
                dead.append(worker)
                self._listener(Ended(ticket, began=False))
                return
            super().submit(ticket, task, tiles, worker)

    slides = Slides([8])
    slides.run(Late())
    assert len(dead) == 2 * stream.ALONE_DEATHS
    assert not slides.holes
    assert set(slides.done) == slides.all_tiles()
