import csv
import functools
import json
import os
import shutil
import sqlite3

import keras
import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import sepssl
from sepssl.data.clips import Clips, report_skipped
from sepssl.data.sources import open_clips
from sepssl.errors import InputError, OutputError
from sepssl.files import printable
from sepssl.index.search import WindowIndex
from sepssl.index.store import WindowStore
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.search import embed_query, row_of, sounds_of, write_results
from sepssl.reports.found import found_table
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.separation.long_audio import separate_stream

RATE = 16000


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(16, width=4))
    encoder.build((None, None))
    return encoder


def tiny_separator(rate=RATE, seed=0):
    keras.utils.set_random_seed(seed)
    separator = Separator(3, STFTBasis(), TDCN(4, 8, 1, 1), "uniform", sample_rate=rate)
    separator.build()
    return separator


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE))


@pytest.fixture
def folder(tmp_path):
    """Four recordings, one of them long, one broken."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(2.3), RATE)
    soundfile.write(folder / "b.flac", np.stack([noise(3, 1), noise(3, 2)], 1), 48000)
    (folder / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "long_20240131_061500.wav", noise(100, 3), RATE)
    soundfile.write(folder / "sub" / "c.wav", noise(0.4, 4), RATE)
    return folder


def embed(encoder, folder, output, **options):
    return embed_recordings(encoder, open_clips(folder, RATE), output, verbose=False, **options)


def loaded(path):
    with np.load(path) as arrays:
        return dict(arrays)


def same(path, other):
    first, second = loaded(path), loaded(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], name, strict=True)


def test_a_row_for_every_window_in_each_format(encoder, folder, tmp_path):
    summary = embed(encoder, folder, tmp_path / "a.npz")
    assert (summary.embedded, summary.found) == (4, 0)
    assert [skipped.name for skipped in summary.skipped] == ["broken.wav"]
    found = loaded(tmp_path / "a.npz")
    assert list(dict.fromkeys(found["names"].tolist())) == [
        "a.wav",
        "b.flac",
        "long_20240131_061500.wav",
        "sub/c.wav",
    ]
    for name in dict.fromkeys(found["names"].tolist()):
        rows = found["names"] == name
        starts, ends, embeddings = sepssl.embed_windows(encoder, folder / name)
        np.testing.assert_array_equal(found["starts"][rows], starts)
        np.testing.assert_array_equal(found["ends"][rows], ends)
        np.testing.assert_array_equal(found["embeddings"][rows], embeddings)
    assert not found["channels"].any()
    assert summary.rows == len(found["names"])

    embed(encoder, folder, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["file"] for row in rows] == found["names"].tolist()
    assert [float(row["start"]) for row in rows] == found["starts"].tolist()
    vectors = np.array([[row[f"e{i}"] for i in range(16)] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, found["embeddings"])

    embed(encoder, folder, tmp_path / "a.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table["file"].to_pylist() == found["names"].tolist()
    assert table["end"].to_pylist() == found["ends"].tolist()
    np.testing.assert_array_equal(np.float32(table["embedding"].to_pylist()), found["embeddings"])


def test_pooled_rows(encoder, folder, tmp_path):
    embed(encoder, folder, tmp_path / "windows.npz")
    windows = loaded(tmp_path / "windows.npz")
    for pool in ("mean", "max", "mean_max"):
        embed(encoder, folder, tmp_path / f"{pool}.npz", pool=pool)
        found = loaded(tmp_path / f"{pool}.npz")
        assert found["names"].tolist() == list(dict.fromkeys(windows["names"].tolist()))
        for name, start, end, vector in zip(
            *(found[key] for key in ("names", "starts", "ends", "embeddings")), strict=True
        ):
            rows = windows["embeddings"][windows["names"] == name]
            parts = {"mean": [rows.mean(axis=0)], "max": [rows.max(axis=0)]}
            parts["mean_max"] = parts["mean"] + parts["max"]
            np.testing.assert_allclose(vector, np.concatenate(parts[pool]), atol=1e-6)
            assert start == 0
            assert end == windows["ends"][windows["names"] == name].max()


@pytest.mark.parametrize("rate", [16000, 8000])
def test_rows_of_channels(encoder, tmp_path, rate):
    (tmp_path / "in").mkdir()
    waveform = noise(4)
    waveform[:RATE] = 0  # a window without a sound has no channel
    soundfile.write(tmp_path / "in" / "a.wav", waveform, RATE, subtype="FLOAT")
    separator = tiny_separator(rate)
    embed(encoder, tmp_path / "in", tmp_path / "a.npz", separator=separator, audible_db=-12.0)
    found = loaded(tmp_path / "a.npz")
    channels = sepssl.separate(separator, tmp_path / "in" / "a.wav")
    everything = np.stack([waveform.astype(np.float32), *channels])
    starts, ends, _ = sepssl.embed_windows(encoder, waveform)
    expected = []
    for start, end in zip(np.rint(starts * RATE), np.rint(ends * RATE), strict=True):
        part = everything[:, int(start) : int(end)]
        powers = np.mean(np.square(part, dtype=np.float64), axis=1)
        for channel in range(4):
            level = 10 * np.log10(powers[channel] / powers[0]) if powers[0] else -np.inf
            if channel == 0 or level >= -12:
                vector = np.asarray(encoder(part[channel : channel + 1]))[0] * (powers[0] > 0)
                expected.append((start / RATE, channel, level if channel else 0.0, vector))
    assert 0 < sum(row[1] > 0 for row in expected) < 3 * len(starts)
    np.testing.assert_array_equal(found["starts"], [row[0] for row in expected])
    np.testing.assert_array_equal(found["channels"], [row[1] for row in expected])
    np.testing.assert_allclose(found["levels"], [row[2] for row in expected], atol=1e-3)
    vectors = np.stack([row[3] for row in expected])
    np.testing.assert_allclose(found["embeddings"], vectors, atol=1e-4)


def test_windows_without_sound_have_rows_that_nothing_finds(encoder, tmp_path):
    (tmp_path / "in").mkdir()
    waveform = noise(6)
    waveform[RATE : 4 * RATE] = 0
    soundfile.write(tmp_path / "in" / "a.wav", waveform, RATE, subtype="FLOAT")
    summary = embed(encoder, tmp_path / "in", tmp_path / "a.npz")
    found = loaded(tmp_path / "a.npz")
    silent = (found["starts"] >= 1) & (found["ends"] <= 4)
    assert summary.silent == silent.sum() == 4
    np.testing.assert_array_equal(found["embeddings"].any(axis=1), ~silent)
    np.testing.assert_array_equal(np.diff(found["starts"])[:-1].round(6), 0.48)
    embed(encoder, tmp_path / "in", tmp_path / "mean.npz", pool="mean")
    mean = found["embeddings"][~silent].mean(axis=0)
    np.testing.assert_allclose(loaded(tmp_path / "mean.npz")["embeddings"][0], mean, atol=1e-6)

    embed(encoder, tmp_path / "in", tmp_path / "index")
    index = WindowIndex(tmp_path / "index")
    for vector in (mean, -mean):  # -mean: nothing is as near as a vector of 0
        assert [
            row.start for row in index.search(vector, 100) if row.end <= 4 and row.start >= 1
        ] == []
        assert len(index.search(vector, 100)) == len(silent) - 4
    query = embed_query(index, encoder, tmp_path / "in" / "a.wav")
    np.testing.assert_allclose(query, mean, atol=1e-6)
    with pytest.raises(InputError, match=r"row 4, a.wav from 1.44 to 2.415 s, is a window without"):
        row_of(index, "a.wav@1.5")
    with pytest.raises(InputError, match=r"a\.wav: is silent from 1\.5 s to 3\.5 s;"):
        embed_query(index, encoder, tmp_path / "in" / "a.wav", 1.5, 3.5)


def test_recordings_of_one_name(encoder, tmp_path):
    for number, name in enumerate(("x", "y")):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", noise(1.5, number), RATE)
        soundfile.write(tmp_path / name / f"{name}.wav", noise(1.5, 2 + number), RATE)
        embed(encoder, tmp_path / name, tmp_path / "a.npz")
        embed(encoder, tmp_path / name, tmp_path / "index")
    found = loaded(tmp_path / "a.npz")
    names = [f"{tmp_path}/x/a.wav", "x.wav", f"{tmp_path}/y/a.wav", "y.wav"]
    assert list(dict.fromkeys(found["names"].tolist())) == names
    index = WindowIndex(tmp_path / "index")
    with pytest.raises(InputError, match=rf"a.wav may be any of {names[0]}, {names[2]}; expected"):
        row_of(index, "a.wav@0.5")
    for name in names:
        row = row_of(index, f"{name}@0.5")
        assert (row.recording, row.start) == (name, 0.48)
        assert row_of(index, str(row.row)) == row_of(index, f"{row.path}@0.5") == row
    assert {row.recording for row in index.search(index.vector(1), 20)} == set(names)


def test_names_of_any_bytes(encoder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    names = [b"\xff\xfe.wav", b"new\nline\ttab.wav"]
    for number, name in enumerate(names):
        soundfile.write(tmp_path / "a.wav", noise(1.5, number), RATE)
        (tmp_path / "a.wav").rename(tmp_path / "in" / os.fsdecode(name))
    (tmp_path / "in" / os.fsdecode(b"broken\xff.wav")).write_bytes(b"RIFF")
    summary = embed(encoder, tmp_path / "in", tmp_path / "index")
    report_skipped(summary.skipped)
    assert capsys.readouterr().out.count("\n") == 2
    index = WindowIndex(tmp_path / "index")
    for name in names:
        row = row_of(index, f"{tmp_path}/in/{os.fsdecode(name)}@0.5")
        assert row == row_of(index, f"{os.fsdecode(name)}@0.5")
        assert row == row_of(index, f"{printable(os.fsdecode(name))}@0.5")  # as it is shown
        assert os.fsencode(row.path) == os.fsencode(tmp_path / "in") + b"/" + name
    found = index.search(index.vector(1), 10)
    assert len(found_table(found).splitlines()) == 1 + len(found) == 7
    for output in ("f.csv", "f.selections.txt", "f.html", "clips"):
        assert write_results(tmp_path / output, found, "title") == []
    lines = (tmp_path / "f.selections.txt").read_text().splitlines()
    assert {len(line.split("\t")) for line in lines} == {12}
    assert len(lines) == 7
    with open(tmp_path / "f.csv", newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert {row["file"] for row in rows} == {"\\udcff\\udcfe.wav", "new\nline\ttab.wav"}


def test_little_in_the_band_is_a_warning(encoder, tmp_path):
    (tmp_path / "in").mkdir()
    t = np.arange(115_200) / 96_000
    for name, level in (("a", 0.05), ("b", 0.02)):
        sound = 0.2 * np.sin(2 * np.pi * 20_000 * t) + level * np.sin(2 * np.pi * 1000 * t)
        soundfile.write(tmp_path / "in" / f"{name}.wav", sound, 96_000, subtype="FLOAT")
    summary = embed(encoder, tmp_path / "in", tmp_path / "a.npz")
    assert summary.embedded == 2
    assert summary.warnings == [  # 1 / 101; that of "a" is 6 %
        "b.wav: only 0.99 % of its power lies below 8000 Hz, the band of this model; "
        "a lower speed brings more of it there"
    ]


def test_killed_at_any_batch_and_resumed_the_same_to_the_last_bit(
    encoder, folder, tmp_path, monkeypatch
):
    append, copies = WindowStore.append, []

    def append_and_copy(self, *arguments):
        append(self, *arguments)
        if self.folder.name == "whole.npz.journal":
            # What a process that is killed now leaves behind.
            copies.append(shutil.copytree(self.folder, tmp_path / f"{len(copies)}.npz.journal"))

    monkeypatch.setattr(WindowStore, "append", append_and_copy)
    embed(encoder, folder, tmp_path / "whole.npz")
    assert len(copies) > 5
    for i in range(len(copies)):
        summary = embed(encoder, folder, tmp_path / f"{i}.npz")
        assert summary.embedded + summary.found == 4
        same(tmp_path / f"{i}.npz", tmp_path / "whole.npz")
    assert summary.found == 3  # of the last


@pytest.mark.parametrize("pool", ["window", "mean"])
def test_killed_while_channels_are_separated_in_chunks(encoder, tmp_path, monkeypatch, pool):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(26, 3), RATE)
    separator = tiny_separator()
    short_chunks = functools.partial(separate_stream, chunk_seconds=6.0)
    append, copies, separated = WindowStore.append, [], []
    call = Separator.predict_on_batch

    def append_and_copy(self, *arguments):
        append(self, *arguments)
        if self.folder.name == "whole.npz.journal":
            copies.append(shutil.copytree(self.folder, tmp_path / f"{len(copies)}.npz.journal"))

    def counted(self, waveform):
        separated.append(1)
        return call(self, waveform)

    monkeypatch.setattr("sepssl.pipelines.embed.separate_stream", short_chunks)
    monkeypatch.setattr("sepssl.separation.long_audio.COMPILED_FROM", 100)
    monkeypatch.setattr(WindowStore, "append", append_and_copy)
    monkeypatch.setattr(Separator, "predict_on_batch", counted)
    options = {"separator": separator, "pool": pool, "audible_db": -60.0}
    embed(encoder, tmp_path / "in", tmp_path / "whole.npz", **options)
    chunks = len(separated)
    assert chunks == 6
    for i in (0, len(copies) // 2, len(copies) - 1):
        separated.clear()
        embed(encoder, tmp_path / "in", tmp_path / f"{i}.npz", **options)
        same(tmp_path / f"{i}.npz", tmp_path / "whole.npz")
    assert len(separated) <= 2  # at the end, no more than what was under way


def test_repeated_over_a_changing_folder(encoder, folder, tmp_path):
    output = tmp_path / "a.npz"
    embed(encoder, folder, output)
    written = output.stat().st_mtime_ns
    (folder / "a.wav").touch()
    summary = embed(encoder, folder, output)
    assert (summary.embedded, summary.found) == (0, 4)
    assert output.stat().st_mtime_ns == written

    soundfile.write(folder / "a.wav", noise(1.8, 9), RATE)
    soundfile.write(folder / "d.wav", noise(1.5, 10), RATE)
    summary = embed(encoder, folder, output)
    assert (summary.embedded, summary.found) == (2, 3)
    found = loaded(output)
    for name in ("a.wav", "b.flac", "d.wav"):
        starts, _, embeddings = sepssl.embed_windows(encoder, folder / name)
        rows = found["names"] == name
        np.testing.assert_array_equal(found["starts"][rows], starts)
        np.testing.assert_array_equal(found["embeddings"][rows], embeddings)


def test_a_recording_that_breaks_in_the_middle_leaves_no_row(encoder, folder, tmp_path):
    damaged = noise(100, 5)
    damaged[-10] = np.nan
    soundfile.write(folder / "e.wav", damaged, RATE, subtype="FLOAT")
    summary = embed(encoder, folder, tmp_path / "a.npz")
    assert [skipped.name for skipped in summary.skipped] == ["broken.wav", "e.wav"]
    found = loaded(tmp_path / "a.npz")
    assert "e.wav" not in found["names"]
    assert np.isfinite(found["embeddings"]).all()


class Made(Clips):
    """Clips without files, whose length only reading shows, and of which one cannot be read."""

    names = ("a", "broken", "b")
    skipped = ()
    sample_rate = RATE
    origin = "made"

    def num_samples(self, index):
        return len(self.read(index))

    def read(self, index, start=0, length=None):
        if index == 1:
            raise InputError("broken: cannot be read")
        return noise(1.5, index).astype(np.float32)


def test_clips_without_files(encoder, tmp_path, capsys):
    summary = embed_recordings(encoder, Made(), tmp_path / "a.npz")
    assert (summary.embedded, summary.audio_seconds) == (2, 3.0)
    assert summary.skipped == [("broken", "broken: cannot be read")]
    assert "embedding: 3/3 recordings" in capsys.readouterr().out
    found = loaded(tmp_path / "a.npz")
    for index in (0, 2):
        rows = found["names"] == Made.names[index]
        starts, _, embeddings = sepssl.embed_windows(encoder, Made().read(index))
        np.testing.assert_array_equal(found["starts"][rows], starts)
        np.testing.assert_array_equal(found["embeddings"][rows], embeddings)
    assert embed_recordings(encoder, Made(), tmp_path / "a.npz", verbose=False).found == 2


def test_other_settings_are_refused(encoder, folder, tmp_path):
    output = tmp_path / "a.npz"
    embed(encoder, folder, output)
    keras.utils.set_random_seed(1)
    other = Encoder(SmallBackbone(16, width=4))
    other.build((None, None))
    for options, message in (
        ({"encoder": other}, "made with encoder=[0-9a-f]{16}, now [0-9a-f]{16}"),
        ({"window_seconds": 2.0}, "window_samples=15600, now 32000"),
        ({"pool": "max"}, "pool=window, now max"),
        ({"separator": tiny_separator()}, "separator=None, now"),
    ):
        with pytest.raises(InputError, match=message):
            embed(**{"encoder": encoder, "folder": folder, "output": output, **options})
    shutil.rmtree(tmp_path / "a.npz.journal")
    with pytest.raises(InputError, match=r"a.npz: exists already, without a.npz.journal"):
        embed(encoder, folder, output)


def test_nothing_to_read_leaves_nothing(encoder, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(InputError, match=r"silent.wav: is silent"):
        embed(encoder, tmp_path / "in", tmp_path / "out" / "a.npz")
    assert not (tmp_path / "out").exists()


def test_two_writers(encoder, folder, tmp_path):
    from sepssl.files import lock_folder

    embed(encoder, folder, tmp_path / "a.npz")
    with (
        lock_folder(tmp_path / "a.npz.journal", wait=False),
        pytest.raises(InputError, match="another process is running in it"),
    ):
        embed(encoder, folder, tmp_path / "a.npz")


def test_a_full_disk_stops_the_run_and_nothing_is_lost(encoder, folder, tmp_path, monkeypatch):
    enter = WindowStore.__enter__

    def with_little_room(self):
        enter(self)
        self._database.execute("PRAGMA max_page_count = 24")  # SQLite's own "disk is full"
        return self

    with monkeypatch.context() as patch:
        patch.setattr(WindowStore, "__enter__", with_little_room)
        with pytest.raises(OutputError, match=r"disk is full; \d of 4 recordings are done"):
            embed(encoder, folder, tmp_path / "a.npz")
    embed(encoder, folder, tmp_path / "a.npz")
    embed(encoder, folder, tmp_path / "b.npz")
    same(tmp_path / "a.npz", tmp_path / "b.npz")


def vectors_of(index, ids):
    return np.stack([index.vector(number) for number in ids])


def test_an_index_holds_the_rows_of_a_file(encoder, folder, tmp_path, monkeypatch):
    embed(encoder, folder, tmp_path / "a.npz")
    rows = loaded(tmp_path / "a.npz")
    forget, copies = WindowStore.forget_pending, []

    def copy_and_forget(self):
        # Killed here, rows are in the index and still wait to be put there.
        copies.append(shutil.copytree(self.folder, tmp_path / "killed"))
        forget(self)

    with monkeypatch.context() as patch:
        patch.setattr(WindowStore, "forget_pending", copy_and_forget)
        embed(encoder, folder, tmp_path / "index", models={"encoder": "/e.keras"})
    embed(encoder, folder, tmp_path / "killed")
    assert copies
    unit = rows["embeddings"] / np.linalg.norm(rows["embeddings"], axis=1, keepdims=True)
    for place in ("index", "killed"):
        index = WindowIndex(tmp_path / place)
        assert len(index) == len(unit)
        found = [index.row(number + 1) for number in range(len(unit))]
        assert [row.recording for row in found] == rows["names"].tolist()
        assert [row.start for row in found] == rows["starts"].tolist()
        np.testing.assert_array_equal(vectors_of(index, range(1, len(unit) + 1)), np.float16(unit))
    assert WindowIndex(tmp_path / "index").models["encoder"] == "/e.keras"
    assert not list((tmp_path / "index").glob(".*.tmp*"))

    soundfile.write(folder / "a.wav", noise(1.8, 9), RATE)
    embed(encoder, folder, tmp_path / "index")
    index = WindowIndex(tmp_path / "index")
    row = index.row_at(str(folder / "a.wav"), 0.5)
    assert (row.start, row.end) == (0.48, 1.455)
    query = sepssl.embed_windows(encoder, folder / "a.wav")[2][1]
    (nearest,) = index.search(query, 1)
    assert nearest.row == row.row
    assert nearest.score == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="window_samples=15600, now 32000"):
        embed(encoder, folder, tmp_path / "index", window_seconds=2.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").touch()
    with pytest.raises(InputError, match="other: holds no index"):
        embed(encoder, folder, tmp_path / "other")


@pytest.mark.parametrize("level", [float("nan"), -float("inf"), 3.0])
def test_a_level_that_is_none_is_refused(encoder, folder, tmp_path, level):
    with pytest.raises(InputError, match=r"audible_db=.*: expected a finite level"):
        embed(encoder, folder, tmp_path / "a.npz", audible_db=level)
    assert not list(tmp_path.glob("a.npz*"))


def test_truncated_recordings(encoder, tmp_path):
    source, output = tmp_path / "in", tmp_path / "index"
    source.mkdir()
    for name, seed in (("a.wav", 0), ("b.wav", 1)):
        soundfile.write(source / name, noise(3, seed), RATE)
    whole = (source / "a.wav").read_bytes()
    (source / "a.wav").write_bytes(whole[: -RATE * 2])  # the last second

    def kept(output=output, **options):
        clips = open_clips(source, RATE, allow_truncated=True)
        return embed_recordings(encoder, clips, output, verbose=False, **options)

    def recordings():
        with sqlite3.connect(output / "hoplite.sqlite") as database:
            columns = "filename, duration, truncated"
            return database.execute(f"SELECT {columns} FROM recordings").fetchall()

    summary = kept()
    assert (summary.embedded, summary.truncated) == (2, ["a.wav: 2.00 of 3.00 s"])
    assert recordings() == [("a.wav", 2.0, "2.00 of 3.00 s"), ("b.wav", 3.0, "")]
    summary = kept()
    assert (summary.found, summary.truncated) == (2, ["a.wav: 2.00 of 3.00 s"])
    with pytest.raises(InputError, match="made with truncated=keep, now skip"):
        embed(encoder, source, output)
    # What is there has the rows that it has in a whole file, and can be searched for and heard.
    index = WindowIndex(output)
    vector = embed_query(index, encoder, source / "a.wav", 0, 0.975, allow_truncated=True)
    found = index.search(vector, 1)
    assert (found[0].recording, found[0].start, round(found[0].score, 5)) == ("a.wav", 0.0, 1.0)
    assert write_results(tmp_path / "clips", found, "") == []
    with pytest.raises(InputError, match="is truncated"):
        embed_query(index, encoder, source / "a.wav", 0, 0.975)

    (source / "a.wav").write_bytes(whole)
    summary = kept()
    assert (summary.embedded, summary.found, summary.truncated) == (1, 1, [])
    assert recordings() == [("a.wav", 3.0, ""), ("b.wav", 3.0, "")]
    embed(encoder, source, tmp_path / "skip.npz")
    with pytest.raises(InputError, match="made with truncated=skip, now keep"):
        kept(tmp_path / "skip.npz")


def test_an_index_from_before_truncated_recordings_goes_on(encoder, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(2), RATE)
    embed(encoder, tmp_path / "in", tmp_path / "index")
    with sqlite3.connect(tmp_path / "index" / "hoplite.sqlite") as database:
        database.execute("ALTER TABLE recordings DROP COLUMN truncated")
        ((settings,),) = database.execute("SELECT value FROM hoplite_metadata WHERE key = 'sepssl'")
        settings = json.loads(settings)
        assert settings.pop("truncated") == "skip"
        database.execute(
            "UPDATE hoplite_metadata SET value = ? WHERE key = 'sepssl'", [json.dumps(settings)]
        )
    soundfile.write(tmp_path / "in" / "b.wav", noise(2, 1), RATE)
    summary = embed(encoder, tmp_path / "in", tmp_path / "index")
    assert (summary.embedded, summary.found) == (1, 1)


def test_recordings_played_at_another_speed(encoder, tmp_path):
    """Embedded as those whose header gives the rate they are played at; times are their own."""
    separator = tiny_separator()
    waveform = noise(7.2).astype(np.float32)
    made = {}
    for name, rate, speed in (("fast", 384000, 0.1), ("slow", 38400, 1.0)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", waveform, rate, subtype="FLOAT")
        clips = open_clips(tmp_path / name, RATE, speed=speed)
        for output in (f"{name}.npz", f"{name}_index"):
            embed_recordings(encoder, clips, tmp_path / output, separator, verbose=False)
        made[name] = loaded(tmp_path / f"{name}.npz")
    for key in ("channels", "levels", "embeddings"):
        np.testing.assert_array_equal(made["fast"][key], made["slow"][key])
    for key in ("starts", "ends"):
        np.testing.assert_array_equal(made["fast"][key], made["slow"][key] * 0.1)
    assert made["fast"]["ends"][-1] == pytest.approx(len(waveform) / 384000, rel=1e-15)

    with pytest.raises(
        InputError, match=r"made with speed=0\.1, now 1\.0; expected another output"
    ):
        embed(encoder, tmp_path / "fast", tmp_path / "fast_index", separator=separator)
    fast, slow = (WindowIndex(tmp_path / f"{name}_index") for name in ("fast", "slow"))
    queries = [
        [
            embed_query(index, encoder, path / "a.wav", start, end, separator, channel)
            for channel in (0, 2)
        ]
        for index, path, start, end in (
            (fast, tmp_path / "fast", 0.096, 0.2),
            (slow, tmp_path / "slow", 0.96, 2.0),
        )
    ]
    np.testing.assert_array_equal(queries[0], queries[1])
    found = [index.search(queries[0][1], 3, "channels") for index in (fast, slow)]
    assert [row.row for row in found[0]] == [row.row for row in found[1]]
    for ours, theirs in zip(*found, strict=True):
        sounds, expected = sounds_of(ours, separator, 0.1), sounds_of(theirs, separator)
        assert [sound.sample_rate for sound in sounds] == [384000, 384000]
        for sound, other in zip(sounds, expected, strict=True):
            np.testing.assert_array_equal(sound.waveform, other.waveform)
