import io
import re
import sys

import pytest

from sepssl import progress as progress_module
from sepssl.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to, for our clock and tqdm's."""
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_lines_every_30_s_where_the_output_is_not_a_terminal(clock, capsys):
    with Progress("decoding", 100, "clip", start="decoding 100 clips") as progress:
        clock[0] += 60  # the first one takes long
        progress.update()
        for _ in range(99):
            clock[0] += 2
            progress.update()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "decoding 100 clips",
        "decoding: 1/100 clips",
        "decoding: 16/100 clips, 2 s/clip, 02:48 left",
    ]
    assert lines[-1] == "decoding: 100/100 clips in 04:18"
    assert len(lines) == 3 + (198 - 30) // 30 + 1


def test_the_end_is_one_line(clock, capsys):
    with Progress("decoding", 1, "clip") as progress:
        clock[0] += 31
        progress.update()
    assert capsys.readouterr().out == "decoding: 1/1 clip in 00:31\n"


def test_the_first_update_is_not_in_the_rate(clock, capsys):
    progress = Progress("training", 1010, "step", done=10)
    clock[0] += 20  # compiles
    progress.update()
    clock[0] += 10
    progress.update(40, loss=2.0, accuracy=0.25)
    assert capsys.readouterr().out == (
        "training: 51/1010 steps, 4 steps/s, 03:59 left, loss 2, accuracy 0.25\n"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_compilations_of_the_first_items_are_not_in_the_time_left(terminal, clock, monkeypatch):
    output = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    with Progress("separating", 100, "clip") as progress:
        for _ in range(3):  # clips of three lengths, for each of which the model is compiled
            clock[0] += 17
            progress.update()
        early = output.getvalue()
        for _ in range(20):
            clock[0] += 2
            progress.update()
            if terminal:
                progress._bar.refresh()
    assert re.search(r"separating:.* [123]/100", early)
    assert "left" not in early
    lines = output.getvalue().replace("\r", "\n").splitlines()
    assert any("10/100" in line and "2 s/clip, 03:00 left" in line for line in lines)
    rates = re.findall(r"([\d.]+) (?:s/clip|clips/s)", output.getvalue())
    assert set(rates) == {"2"}


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress("separating", 3, "clip", start="separating 3 clips") as progress:
        progress.update()
        progress.note("b.wav: is odd")
        progress.update(loss=0.5)
        progress.update()
    text = terminal.getvalue()
    assert text.startswith("separating 3 clips\n")
    assert re.search(r"\rseparating:  33%.*1/3", text)
    assert "b.wav: is odd\n" in text
    assert re.search(r"separating: 100%.*3/3.*loss 0\.5\]\n$", text)


def test_an_interrupted_bar_ends_its_line(monkeypatch):
    """What is printed next is not glued to it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    def work():
        with Progress("separating", 3, "clip") as progress:
            progress.update()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet(terminal, monkeypatch, clock):
    output = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    with Progress("decoding", 2, "clip", start="decoding", verbose=False) as progress:
        progress.update()
        clock[0] += 100
        progress.update()
        progress.note("note")
    assert output.getvalue() == ""


def test_nothing_done_is_no_line(capsys):
    with pytest.raises(ValueError, match="at once"), Progress("decoding", 2, "clip"):
        raise ValueError("at once")
    assert capsys.readouterr().out == ""
