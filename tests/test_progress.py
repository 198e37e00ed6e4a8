"""What a person sees of a batch on the way: on a terminal, in a log file, or nothing."""

import contextlib
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from nucleiflow import progress
from nucleiflow.snapshot import SlideState, Snapshot

HOSTILE = "a\x1b[31m\x07\r\n\x9b2J\u202e\udcff[bold]b[/] {c}"
COLUMNS = 80
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW = """
import sys, time
from nucleiflow import progress
from nucleiflow.snapshot import SlideState, Snapshot

name, *states = eval(sys.argv[1])
slides = [
    SlideState(f"{name}{number}", "", state, "segment", 3 + number, 12, megapixels=10.0)
    for number, state in enumerate(states)
]
shown = progress.choose(quiet=False)
for _ in range(3):
    shown.show(Snapshot(slides, elapsed=10.0, megapixels_done=40.0))
    time.sleep(0.2)
shown.say(f"finished: {name}\\nnext")
shown.close()
"""


def batch(*states, **more):
    slides = [SlideState(f"s{number}", "", state) for number, state in enumerate(states)]
    for one in slides:
        if one.state == "running":
            one.begin("segment", 0, 12)
            one.tiles_done = 3
    return Snapshot(slides, elapsed=10.0, **more)


def on_a_terminal(name, *states):
    """What arrives at a terminal of 80 columns."""
    above, below = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, ascii([name, *states])],
        stdin=below,
        stdout=below,
        stderr=below,
        env={**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
    ):
        os.close(below)
        read = []
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(above, 1 << 16):
                read.append(piece)
    os.close(above)
    return b"".join(read).decode()


def visible(sent):
    return [line for line in MOVES.sub("", sent).replace("\r", "\n").split("\n") if line.strip()]


def test_one_slide_is_one_line():
    sent = on_a_terminal("slide", "running")
    lines = visible(sent)
    shown = next(line for line in lines if "slide0" in line)
    assert re.search(r"slide0 +segment +━.* +3/12 tiles +4.00 MP/s +\d+:\d\d:\d\d left", shown)
    assert {"finished: slide", "next"} <= set(lines)
    assert max(map(cell_len, lines)) <= COLUMNS


def test_a_batch_is_one_line_and_at_most_four_running_slides():
    lines = visible(on_a_terminal("s", "done", "failed", *["running"] * 6, "waiting"))
    whole = next(line for line in lines if "slides" in line)
    assert re.search(r" \d+ % +1/9 slides +1 failed +4.00 MP/s +\d+:\d\d:\d\d left", whole)
    named = {line.split()[0] for line in lines if "/12 tiles" in line}
    assert named == {"s2", "s3", "s4", "s5"}
    assert any(line.strip() == "… and 2 more" for line in lines)
    assert max(map(cell_len, lines)) <= COLUMNS


def test_nothing_is_left_of_the_bar():
    """What was drawn last is erased: as many lines up as there are."""
    sent = on_a_terminal("s", "running", "running")
    rest = sent[sent.rindex("finished") :]
    assert "tiles" not in rest[rest.rindex("\x1b[2K") :], "drawn again after the last erasure"
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h") == 1, "the cursor is back"


@pytest.mark.parametrize("states", [["running"], ["running", "waiting"]])
def test_a_slides_name_cannot_move_the_terminal(states):
    sent = on_a_terminal(HOSTILE, *states)
    assert "[bold]b[/]" in sent
    assert not {"\x07", "\x9b", "\u202e"} & set(sent)
    assert "\x1b[31m" not in sent
    assert not [line for line in visible(sent) if line.strip().startswith(("[bold]", "2J"))]
    assert max(map(cell_len, visible(sent))) <= COLUMNS


def test_without_a_terminal_there_are_plain_lines_now_and_then(capsys, monkeypatch):
    shown = progress.choose(quiet=False)
    assert isinstance(shown, progress.Lines)
    shown.show(batch("running"))
    assert capsys.readouterr().err == "", "not before ten seconds have passed"
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    shown.show(batch("running", megapixels_done=5.0))
    shown.show(batch("done", "running", "failed", "waiting"))
    shown.show(batch("waiting", "waiting"))
    shown.say(HOSTILE)
    shown.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    one, many, *said = captured.err.splitlines()
    assert re.fullmatch(r"s0  segment  3/12 tiles  0.50 MP/s  0:00:25 left", one)
    assert re.fullmatch(r"1/4 slides  1 failed  57 %  0:00:\d\d left", many)
    assert said == ["a�[31m��", "�2J��[bold]b[/] {c}"]


def test_quiet_is_quiet(capsys):
    shown = progress.choose(quiet=True)
    shown.say("text")
    shown.show(batch("running"))
    shown.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", [HOSTILE, "切片" * 10, "é" * 99, "", "e\u0301" * 50, "🧬" * 40])
def test_short_texts_fit_into_their_columns(text):
    for cells in (1, 2, 7, 36):
        assert cell_len(progress.short(text, cells)) <= cells
        assert progress.plain(progress.short(text, cells)) == progress.short(text, cells)


def test_columns_stand_one_under_the_other():
    lines = progress.columns([["切片", "9 tiles", "x"], ["a", "10 tiles", "yy"]])
    assert lines == ["切片   9 tiles  x", "a     10 tiles  yy"]
    assert progress.columns([["only"], ["one"]]) == ["only", "one"]


class TestTimeLeft:
    """`Snapshot.seconds_left`: the time so far, times what is left over what was done in it."""

    def test_none_before_there_is_a_pace(self):
        assert Snapshot().seconds_left is None
        assert batch("waiting", "waiting").seconds_left is None
        assert Snapshot().fraction == 0.0

    def test_it_is_over_when_all_is_done(self):
        assert batch("done", "done").seconds_left == 0.0
        assert batch("done", "failed").fraction == 1.0

    def test_slides_count_by_their_size(self):
        now = batch("done", "waiting")
        assert now.seconds_left == pytest.approx(10.0)
        now.slides[0].megapixels, now.slides[1].megapixels = 1.0, 3.0
        assert now.seconds_left == pytest.approx(30.0)
        assert now.fraction == pytest.approx(0.25)

    def test_a_slide_of_unknown_size_is_like_the_others(self):
        now = batch("done", "done", "waiting")
        now.slides[0].megapixels, now.slides[1].megapixels = 1.0, 3.0
        assert now.seconds_left == pytest.approx(5.0)

    def test_what_was_done_before_says_nothing_about_the_pace(self):
        now = batch(*["done"] * 3, "failed", "waiting")
        for one in now.slides[:2]:
            one.again = True
        assert now.seconds_left == pytest.approx(10.0)

    def test_a_resumed_slide_is_measured_from_where_it_was(self):
        slide = SlideState("a", "", "running")
        slide.begin("image", 12, 12)
        slide.begin("image", 3, 3)
        slide.begin("segment", 6, 12)
        assert slide.before == pytest.approx(slide.fraction - 0.01), "all but the look"
        now = Snapshot([slide], elapsed=10.0)
        slide.tiles_done = 9
        done = slide.fraction - slide.before
        assert now.seconds_left == pytest.approx(10 * (1 - slide.fraction) / done)
        slide.state = "done"
        assert now.seconds_left == 0.0
