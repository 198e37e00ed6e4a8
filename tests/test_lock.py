"""One run at a time on an output; the dead, the stopped and the forged do not keep it."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import psutil
import pytest
import s3

from nucleiflow import lock, place, records
from nucleiflow.errors import RunError, StoreError

RUN = "0123456789abcdef" * 2
HOLDER = """
import sys
from nucleiflow import lock, place
from nucleiflow.errors import NucleiflowError

lock.BEAT_SECONDS, lock.POLL_SECONDS, lock.LEASE_SECONDS = map(float, sys.argv[1].split(","))
print("ready", flush=True)
for folder in map(str.strip, sys.stdin):
    try:
        with lock.hold(place.of(folder), say=lambda text: print("said", text, flush=True)) as held:
            print("held", flush=True)
            for asked in map(str.strip, sys.stdin):
                if asked == "release":
                    break
                try:
                    held.check()
                    print("ours", flush=True)
                except NucleiflowError as error:
                    print(type(error).__name__, error, flush=True)
        print("released", flush=True)
    except NucleiflowError as error:
        print(type(error).__name__, error, flush=True)
"""


class Other:
    """Another process that holds and gives free as it is told."""

    def __init__(self, beat=0.05, poll=0.02, lease=10.0):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, f"{beat},{poll},{lease}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"

    def ask(self, text):
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().strip()

    def told(self, text):
        self.ask(text)
        return self.answer()

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def other():
    """Starts other processes, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(**times):
            begun = Other(**times)
            stack.callback(begun.end)
            return begun

        yield start


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.4)


@pytest.fixture
def slow(quick, monkeypatch):
    """Nobody is found dead by waiting."""
    monkeypatch.setattr(lock, "LEASE_SECONDS", 100.0)


def write(out, **changes):
    """A lease as a living run on this machine would have it, but for some changes."""
    lease = lock._own().model_copy(update={"run": RUN, **changes})
    records.put(out / "lock.json", lease.as_bytes())
    return lease


def take(out):
    """Hold the output for a moment; what was said."""
    said = []
    with lock.hold(out, say=said.append) as held:
        held.check()
        assert lock.holder(out).pid == os.getpid()
    assert os.listdir(out) == []
    return said


def test_a_free_output_is_held_and_given_free(tmp_path):
    out = tmp_path / "not" / "there"
    with lock.hold(out, say=pytest.fail) as held:
        held.check()
        mine = lock.holder(out)
        assert (mine.pid, mine.beat) == (os.getpid(), 0)
        assert abs((datetime.now(UTC) - mine.started).total_seconds()) < 60
    assert lock.holder(out) is None
    assert os.listdir(out) == []


def test_it_is_given_free_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path, say=pytest.fail):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_a_living_run_is_in_use_and_not_disturbed(tmp_path, other, slow):
    holder = other()
    assert holder.told(tmp_path) == "held"
    said = []
    with pytest.raises(StoreError) as error, lock.hold(tmp_path, say=said.append):
        pytest.fail("two runs on one output")
    (line,) = said
    assert "waiting up to 100 s" in line
    assert f"(process {holder.process.pid}, since 20" in str(error.value)
    assert f"{tmp_path} is in use by a run on host " in str(error.value)
    assert "choose another --out" in str(error.value)
    assert holder.told("check") == "ours"
    assert holder.told("release") == "released"
    assert take(tmp_path) == []


def test_two_in_one_process_exclude_each_other(tmp_path, slow):
    with lock.hold(tmp_path, say=pytest.fail) as held:
        with pytest.raises(StoreError, match="in use"), lock.hold(tmp_path, say=str):
            pytest.fail("two runs on one output")
        held.check()


def test_a_killed_run_is_followed_at_once(tmp_path, other, slow):
    holder = other()
    assert holder.told(tmp_path) == "held"
    os.kill(holder.process.pid, signal.SIGKILL)
    while psutil.Process(holder.process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert take(tmp_path) == [], "a zombie is dead"
    assert holder.process.wait() == -signal.SIGKILL


def test_a_run_killed_and_buried_is_followed_at_once(tmp_path, other, slow):
    holder = other()
    assert holder.told(tmp_path) == "held"
    holder.end()
    assert lock.is_gone(lock.holder(tmp_path))
    assert take(tmp_path) == []


def test_a_process_that_got_the_number_of_a_dead_one_is_not_it(tmp_path, slow):
    lease = write(tmp_path)
    assert not lock.is_gone(lease)
    with pytest.raises(AssertionError, match="watched"):
        take_watched(tmp_path)
    write(tmp_path, process_started=lease.process_started - 1)
    assert take(tmp_path) == []


def take_watched(out):
    def say(text):
        raise AssertionError("watched")

    with lock.hold(out, say=say):
        pass


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"machine": "another boot"}])
def test_a_silent_run_of_another_machine_is_dead_after_the_lease(tmp_path, quick, change):
    write(tmp_path, pid=os.getpid() + 1, **change)
    waiting, taken = take(tmp_path)
    assert "waiting up to" in waiting
    assert "dead" in taken


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": "../../x"}', b"\xff\x00" * 9])
def test_a_damaged_lease_is_dead_after_the_watch(tmp_path, quick, content):
    records.put(tmp_path / "lock.json", content)
    assert len(take(tmp_path)) == 2


def test_two_damaged_leases_in_a_row_are_dead_too(tmp_path, quick):
    records.put(tmp_path / "lock.json", b"")
    records.put(tmp_path / f"lock.{lock.holder(tmp_path).run}.json", b"")
    assert len(take(tmp_path)) == 2


def test_a_beating_run_of_another_machine_is_in_use(tmp_path, slow):
    """Its process number is nobody's here, which says nothing."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lease = write(tmp_path, host="elsewhere", pid=gone.pid)
    ended = threading.Event()

    def beat():
        count = 0
        while not ended.wait(0.05):
            count += 1
            beaten = lease.model_copy(update={"beat": count})
            records.put(tmp_path / "lock.json", beaten.as_bytes())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(StoreError, match="in use by a run on host elsewhere"):
            take(tmp_path)
    finally:
        ended.set()
        thread.join()


def test_who_waits_gets_what_is_given_free_meanwhile(tmp_path, slow):
    write(tmp_path, host="elsewhere")

    def say(text):
        assert "waiting" in text
        records.remove(tmp_path / "lock.json")

    with lock.hold(tmp_path, say=say) as held:
        held.check()


def test_a_stopped_run_is_followed_and_notices_when_it_wakes(tmp_path, other, quick):
    holder = other()
    assert holder.told(tmp_path) == "held"
    os.kill(holder.process.pid, signal.SIGSTOP)
    with lock.hold(tmp_path, say=str) as held:
        os.kill(holder.process.pid, signal.SIGCONT)
        lost = holder.told("check")
        assert lost.startswith(f"RunError {tmp_path} was taken over by a run on host ")
        assert f"(process {os.getpid()}," in lost
        assert holder.told("release") == "released"
        held.check()
        assert lock.holder(tmp_path).pid == os.getpid(), "not removed by the one that lost it"


def test_a_long_sleep_is_noticed_without_a_beat(tmp_path, monkeypatch):
    """The first `check` after it reads, whether or not the other thread woke already."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    with lock.hold(tmp_path, say=pytest.fail) as held:
        held._ended.set()
        held._thread.join()
        write(tmp_path)
        time.sleep(0.5)
        with pytest.raises(RunError, match="taken over"):
            held.check()
    assert lock.holder(tmp_path).run == RUN


def test_a_removed_lease_ends_the_run(tmp_path, quick):
    with lock.hold(tmp_path, say=pytest.fail) as held:
        records.remove(tmp_path / "lock.json")
        held._thread.join()
        with pytest.raises(RunError, match="was removed"):
            held.check()
    assert lock.holder(tmp_path) is None


def test_a_disk_that_fails_is_borne_for_as_long_as_a_lease(tmp_path, slow, monkeypatch):
    with lock.hold(tmp_path, say=pytest.fail) as held:
        (tmp_path / "lock.json").rename(tmp_path / "aside")
        (tmp_path / "lock.json").mkdir()
        time.sleep(0.2)
        held.check()
        monkeypatch.setattr(lock, "LEASE_SECONDS", 0.1)
        with pytest.raises(RunError, match=r"lock.json cannot be read: .*, for 0 s now"):
            held.check()


def test_an_output_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError), lock.hold(tmp_path / "file", say=pytest.fail):
        pytest.fail("no folder")


def race(racers, out, *, dead):
    """One round on a free output, or on one that a dead run left; it must be free afterwards."""
    if dead:
        write(out, process_started=-1.0)
    for racer in racers:
        racer.ask(out)
    last = [_without_watching(racer) for racer in racers]
    first_words = sorted(word.split()[0] for word in last)
    assert first_words == ["StoreError"] * (len(racers) - 1) + ["held"], last
    winner = racers[last.index("held")]
    assert winner.told("check") == "ours"
    assert winner.told("release") == "released"
    assert leases(out) == []


def leases(out):
    return [name for name in records.names(out) if name.endswith(".json")]


def test_racing_starters_never_both_hold(tmp_path, other):
    """Real processes; every other round there is a dead lease to be followed."""
    racers = [other(), other()]
    for number in range(30):
        race(racers, tmp_path / str(number), dead=number % 2)


def test_in_an_object_store(other, slow):
    with s3.server() as (_, env), s3.reached(env):
        out = place.of(f"s3://{s3.BUCKET}/runs")
        racers = [other(beat=0.2, poll=0.05) for _ in range(3)]
        for number in range(6):
            race(racers, out / str(number), dead=number % 2)
        assert racers[0].told(out) == "held"
        racers[0].end()
        with lock.hold(out, say=pytest.fail) as held:
            held.check()
            assert racers[1].told(out).startswith("said")
            assert racers[1].answer().startswith(f"StoreError {out} is in use by a run on host ")
        assert leases(out) == []


def _without_watching(racer):
    said = racer.answer()
    return racer.answer() if said.startswith("said") else said


class Killed(BaseException):
    """What a killed contender does not survive."""


class Interleaved:
    """Contenders for one output that go on only when told, up to their next access to the disk."""

    def __init__(self, out, monkeypatch):
        self.out, self.dead, self.holding, self.watching = out, {RUN}, {}, set()
        self._turns, self._arrived, self._threads, self._killed = {}, {}, {}, set()
        for name in ("create", "get", "put", "remove"):
            monkeypatch.setattr(lock.records, name, self._stopping(getattr(records, name)))
        monkeypatch.setattr(lock, "is_gone", lambda lease: lease.run in self.dead)
        monkeypatch.setattr(lock, "_own", self._own)

    def _stopping(self, function):
        def stop_first(*arguments):
            self._pause(threading.current_thread().name)
            return function(*arguments)

        return stop_first

    def _pause(self, name):
        if name not in self._turns:
            return
        self._arrived[name].release()
        self._turns[name].acquire()
        if name in self._killed:
            raise Killed

    def _own(self):
        return lease(threading.current_thread().name)

    def start(self, name):
        def contend():
            def say(_):
                self.watching.add(name)

            with contextlib.suppress(Killed):
                self._pause(name)
                self.holding[name] = lock._take(self.out, say)
            self._arrived[name].release()

        self._turns[name], self._arrived[name] = threading.Semaphore(0), threading.Semaphore(0)
        self._threads[name] = threading.Thread(target=contend, name=name)
        self._threads[name].start()
        self._arrived[name].acquire()

    def alive(self):
        return [name for name, thread in self._threads.items() if thread.is_alive()]

    def step(self, name):
        self._turns[name].release()
        self._arrived[name].acquire()
        if name in self._killed or name in self.holding:
            self._threads[name].join()

    def kill(self, name):
        self._killed.add(name)
        self.dead.add(lease(name).run)
        self.step(name)


def lease(name):
    return lock.Lease(
        run=name.encode().hex().ljust(32, "0"),
        host="here",
        machine="",
        pid=1,
        process_started=0.0,
        started=datetime.now(UTC),
    )


@pytest.mark.parametrize("seed", range(150))
def test_in_any_order_of_steps_and_deaths_one_contender_holds(tmp_path, monkeypatch, seed):
    """Three follow a dead run, all but one of them may be killed anywhere; the last one gets it."""
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.0005)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 50.0)
    chance = random.Random(seed)
    if seed % 3:
        records.put(tmp_path / "lock.json", lease("0").model_copy(update={"run": RUN}).as_bytes())
    race = Interleaved(tmp_path, monkeypatch)
    for name in "abc":
        race.start(name)
    doomed = chance.sample("abc", chance.randrange(3))
    ends = {name: chance.randrange(1, 25) for name in doomed}
    steps = 0
    while race.alive():
        steps += 1
        name = chance.choice(race.alive())
        if ends.get(name) == 0:
            race.kill(name)
        else:
            ends[name] = ends.get(name, -1) - 1
            race.step(name)
        survivors = [name for name in race.holding if lease(name).run not in race.dead]
        assert len(survivors) <= 1, "two hold at once"
        if steps > 2000:
            break
        if survivors and set(race.alive()) <= race.watching and steps > 300:
            break
    for name in race.alive():
        race.kill(name)
    survivors = [name for name in race.holding if name not in race._killed]
    (only,) = survivors
    chain = [one.run for one in lock._chain(tmp_path)]
    assert chain[-1] == lease(only).run
    if not doomed:
        assert os.listdir(tmp_path) == ["lock.json"], "nothing is left of the others"
