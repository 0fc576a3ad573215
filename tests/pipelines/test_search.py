import base64
import csv
import io
import itertools
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile

import sepssl
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.index.search import WindowIndex
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.search import embed_query, row_of, write_results
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis

RATE = 16000


def tiny_encoder(seed=0):
    keras.utils.set_random_seed(seed)
    encoder = Encoder(SmallBackbone(16, width=4))
    encoder.build((None, None))
    return encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Recordings of sweeps, an encoder and a separator, and an index with rows of channels."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for name, low in (("a", 200), ("b", 1500), ("c", 4000)):
        t = np.arange(4 * RATE) / RATE
        sweep = 0.3 * np.sin(2 * np.pi * (low + 100 * t) * t)
        noisy = sweep + 0.02 * rng.normal(size=len(t))
        soundfile.write(folder / "in" / f"{name}.wav", noisy, RATE, subtype="FLOAT")
    encoder = tiny_encoder()
    keras.utils.set_random_seed(0)
    separator = Separator(3, STFTBasis(), TDCN(4, 8, 1, 1), "uniform")
    separator.build()
    sepssl.save_model(encoder, folder / "e.keras")
    sepssl.save_model(separator, folder / "s.keras")
    embed_recordings(
        encoder,
        open_clips(folder / "in", RATE),
        folder / "index",
        separator,
        models={"encoder": str(folder / "e.keras"), "separator": str(folder / "s.keras")},
        verbose=False,
    )
    return folder, encoder, separator


def test_a_window_finds_itself_and_longer_ones_their_mean(made):
    folder, encoder, _ = made
    index = WindowIndex(folder / "index")
    query = embed_query(index, encoder, folder / "in" / "b.wav", 0.96, 0.96 + 0.975)
    (first,) = index.search(query, 1, "mixture")
    assert (first.recording, first.start, first.channel) == ("b.wav", 0.96, 0)
    assert first.score == pytest.approx(1, abs=2e-5)
    whole = embed_query(index, encoder, folder / "in" / "b.wav")
    windows = sepssl.embed_windows(encoder, folder / "in" / "b.wav")[2]
    np.testing.assert_allclose(whole, windows.mean(axis=0), atol=1e-6)
    short = embed_query(index, encoder, folder / "in" / "b.wav", 1.0, 1.3)
    waveform = soundfile.read(folder / "in" / "b.wav", dtype="float32")[0][RATE : RATE + 4800]
    np.testing.assert_allclose(short, np.asarray(encoder(waveform[None]))[0], atol=1e-5)


def test_a_channel_finds_its_own_row(made):
    folder, encoder, separator = made
    index = WindowIndex(folder / "index")
    row = row_of(index, f"{folder}/in/c.wav@1.44", 2)
    assert (row.recording, row.start, row.channel) == ("c.wav", 1.44, 2)
    query = embed_query(
        index, encoder, folder / "in" / "c.wav", 1.44, 1.44 + 0.975, separator, channel=2
    )
    cosine = query @ index.vector(row.row) / np.linalg.norm(query)
    assert cosine == pytest.approx(1, abs=1e-3)
    # Rows of one window count once.
    found = index.search(query, 100)
    assert len(found) == len({(window.recording, window.start) for window in found})


def test_what_does_not_fit_the_index_is_refused(made):
    folder, encoder, separator = made
    index = WindowIndex(folder / "index")
    sound = folder / "in" / "a.wav"
    with pytest.raises(InputError, match=r"rows of the encoder [0-9a-f]{16}, this one is [0-9a-f]"):
        embed_query(index, tiny_encoder(1), sound)
    with pytest.raises(InputError, match="channel 4: expected 1 to 3"):
        embed_query(index, encoder, sound, separator=separator, channel=4)
    with pytest.raises(InputError, match="expected an end after 3 s"):
        embed_query(index, encoder, sound, 3.0, 2.0)
    soundfile.write(folder / "half.wav", np.repeat([0.0, 0.3], RATE), RATE)
    with pytest.raises(InputError, match=r"half\.wav: is silent from 0 s to 0\.5 s;"):
        embed_query(index, encoder, folder / "half.wav", 0.0, 0.5)
    # Ultrasound of 20 kHz, and after 1 s a hundredth of its power at 1 kHz.
    t = np.arange(96_000 * 2) / 96_000
    high, low = (np.sin(2 * np.pi * hz * t) for hz in (20_000, 1000))
    bat = folder / "bat.wav"
    soundfile.write(bat, 0.2 * high + 0.02 * low * (t >= 1), 96_000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"bat\.wav: holds nothing below 8000 Hz"):
        embed_query(index, encoder, bat, 0.0, 0.9)
    warnings: list[str] = []
    for end in (0.05, 1.0):
        embed_query(index, encoder, folder / "in" / "b.wav", 0.0, end, warn=warnings.append)
    for channel in (0, 1):
        embed_query(index, encoder, bat, 1.05, 1.95, separator, channel, warn=warnings.append)
    line = f"{bat}: only 0.99 % of its power lies below 8000 Hz, the band of this model; "
    assert warnings == [line + "a lower speed brings more of it there"] * 2
    embed_query(index, encoder, sound, 3.0, 4.0004, warn=warnings.append)
    embed_query(index, encoder, sound, 3.0, 9.5, warn=warnings.append)
    assert warnings[2:] == [f"{sound}: ends at 4.00 s; the query ends there, not at 9.5 s"]
    for query, message in (
        ("99999", "has no row 99999"),
        ("a.wav", "names no row"),
        ("a.wav@x", "names no row"),
        ("z.wav@1", "holds no row for a window of z.wav .* a name such as [abc]"),
    ):
        with pytest.raises(InputError, match=message):
            row_of(index, query)


def test_results_in_every_form(made, tmp_path):
    folder, encoder, separator = made
    index = WindowIndex(folder / "index")
    query = embed_query(index, encoder, folder / "in" / "a.wav", 0.5, 1.5)
    found = index.search(query, 6, "channels")
    assert all(window.channel for window in found)
    sound, _ = soundfile.read(found[0].path, dtype="float32")
    first = round(found[0].start * RATE)
    cut = sound[first : first + 15600]

    write_results(tmp_path / "f.csv", found, "")
    with open(tmp_path / "f.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["start"]) for row in rows] == [window.start for window in found]
    assert [int(row["channel"]) for row in rows] == [window.channel for window in found]
    assert rows[0]["path"] == str(folder / "in" / found[0].recording)
    clips = open_clips(tmp_path / "f.csv", RATE)  # the table is a manifest of what was found
    assert len(clips) == 6
    np.testing.assert_array_equal(clips.read(0), cut)

    write_results(tmp_path / "f.selections.txt", found, "")
    lines = [line.split("\t") for line in (tmp_path / "f.selections.txt").read_text().splitlines()]
    assert lines[0][:7] == [
        *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"),
        *("Low Freq (Hz)", "High Freq (Hz)"),
    ]
    table = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [float(row["End Time (s)"]) for row in table] == [round(w.end, 6) for w in found]
    assert {row["High Freq (Hz)"] for row in table} == {"8000"}
    assert [row["Selection"] for row in table] == ["1", "2", "3", "4", "5", "6"]

    own = [window for window in found if window.recording == found[0].recording]
    write_results(tmp_path / "f.txt", own, "")
    labels = [line.split("\t") for line in (tmp_path / "f.txt").read_text().splitlines()]
    assert [float(start) for start, _, _ in labels] == sorted(w.start for w in own)
    mixed = [own[0], own[0]._replace(path="/z.wav")]
    with pytest.raises(InputError, match="a label track belongs to one recording"):
        write_results(tmp_path / "g.txt", mixed, "")

    write_results(tmp_path / "clips", found[:2], "", separator)
    files = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert len(files) == 4
    clip, rate = soundfile.read(tmp_path / "clips" / files[0], dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(clip, cut, atol=2**-23)
    channel, _ = soundfile.read(tmp_path / "clips" / files[1], dtype="float32")
    expected = sepssl.separate(separator, found[0].path)[found[0].channel - 1]
    np.testing.assert_allclose(channel, expected[first : first + 15600], atol=1e-5)

    skipped = write_results(
        tmp_path / "f.html", [found[0], found[1]._replace(path="/gone.wav")], "<Like>", separator
    )
    assert len(skipped) == 1
    page = (tmp_path / "f.html").read_text()
    assert "&lt;Like&gt;" in page
    assert page.count("The sound could not be read.") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing from elsewhere
    sounds = re.findall(r'src="data:audio/wav;base64,([^"]+)"', page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(sounds) == len(pictures) == 2
    heard, _ = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])), dtype="float32")
    np.testing.assert_allclose(heard, cut, atol=1e-4)
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG")


def test_a_row_is_a_query_without_tensorflow(made):
    folder, *_ = made
    script = """
import sys
from absl import flags
from sepssl.cli import search
from sepssl.cli.main import execute, parse
values = flags.FlagValues()
parse(search, values, ["sepssl-search", *sys.argv[1:]])
assert execute(search, values) == 0
assert not {"tensorflow", "keras", "matplotlib", "scipy.signal"} & set(sys.modules)
"""
    arguments = [f"--index={folder}/index", "--query_row=a.wav@0.5", "--k=3", "--rows=mixture"]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["score", "start", "end", "recording"]
    assert not any(line.endswith("0.480  1.455  a.wav") for line in lines)  # the query itself


def test_the_command(made, tmp_path, monkeypatch, capsys):
    from absl import flags

    from sepssl.cli import search
    from sepssl.cli.main import execute, parse

    folder, *_ = made

    def run(*arguments):
        values = flags.FlagValues()
        parse(search, values, ["sepssl-search", f"--index={folder}/index", *arguments])
        return execute(search, values), *capsys.readouterr()

    status, out, _ = run(
        f"--query={folder}/in/b.wav", "--start=0.96", "--end=1.935", "--k=2", "--rows=mixture",
        f"--output={tmp_path}/f.csv", f"--output={tmp_path}/f.html",
    )  # fmt: skip
    assert status == 0
    assert out.splitlines()[1].split() == ["1", "1.000", "0.960", "1.935", "b.wav"]
    assert (tmp_path / "f.html").exists()
    for flag, mark in (("--overlapping", False), ("--nooverlapping", True)):
        _, out, _ = run("--query_row=b.wav@0.96", "--rows=mixture", "--k=50", flag)
        spans = [line.split()[-3:] for line in out.splitlines()[1:]]
        spans = sorted((name, float(start), float(end)) for start, end, name in spans)
        assert ("b.wav", 0.96, 1.935) not in spans
        apart = [a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(spans)]
        assert all(apart) == mark
        query = [name == "b.wav" and start < 1.93 and end > 0.97 for name, start, end in spans]
        assert any(query) != mark
    for name in ("here", "e.csv"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for arguments, message in (
        (
            [f"--query={folder}/in/b.wav"]
            + [f"--output={tmp_path}/{name}" for name in ("g.csv", "f.csv", "f.html", "g.csv")],
            f"g.csv: is named twice; expected another name; {tmp_path}/f.csv: exists already; "
            f"expected a new file name; {tmp_path}/f.html: exists already",
        ),
        (
            ["--query_row=1", f"--output={tmp_path}/h.csv", f"--output={tmp_path}/h.txt"],
            "h.txt: a label track belongs to one recording, windows of 3 were found",
        ),
        ([f"--query={folder}/in/b.wav", "--start=nan"], "--start=nan: expected seconds, 0 or more"),
        ([f"--query={folder}/in/b.wav", "--end=nan"], "--end=nan: expected seconds, more than"),
        ([f"--query={folder}/in/b.wav", "--output=f.wav"], "f.wav: expected a name that ends in"),
        ([f"--query={folder}/e.keras", "--output=."], ".: is the current folder; expected a"),
        ([f"--query={folder}/e.keras", "--output=../e.csv"], "e.csv: is a folder; expected a file"),
        (
            [f"--query={folder}/e.keras", "--output=../e.csv", "--output=../e.csv/f"],
            "../e.csv/f: lies in ../e.csv, another output",
        ),
        (["--query=none.wav"], "none.wav: does not exist"),
        ([], "expected one of --query and --query_row"),
        (["--query_row=1", "--end=3"], "--start and --end are for --query"),
    ):
        status, _, err = run(*arguments)
        assert status == 1
        assert message in err
    assert not (tmp_path / "h.csv").exists()
    # All outputs or none: what was written alone would stand in the way of a second try.
    status, _, err = run(
        "--query_row=1", f"--output={tmp_path}/i.csv", f"--output={tmp_path}/f.csv/i.html"
    )
    assert (status, not err) == (1, False)
    assert not (tmp_path / "i.csv").exists()
    assert json.dumps(WindowIndex(folder / "index").models) == json.dumps(
        {"sample_rate": RATE, "encoder": f"{folder}/e.keras", "separator": f"{folder}/s.keras"}
    )
