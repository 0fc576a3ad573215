import concurrent.futures
import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from sepssl.data.clips import Subset
from sepssl.errors import InputError, OutputError
from sepssl.pipelines.activity import Activity, ChannelLevels
from sepssl.pipelines.separate import (
    open_recordings,
    output_names,
    separate_recordings,
)
from sepssl.separation import TDCN, Separator, STFTBasis
from tests.tfds_files import prepare


@pytest.fixture(scope="module")
def separator():
    return Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")


def recordings_of(spec, exclude=None):
    return open_recordings(spec, 16000, exclude)


def sine(samples, rate):
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype(np.float32)


def test_files_add_up_to_the_input_but_for_rounding(separator, tmp_path):
    waveform = sine(20000, 16000)
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    recordings = recordings_of(tmp_path / "a.wav")
    assert separate_recordings(separator, recordings, tmp_path / "out").separated == 1
    read = [soundfile.read(tmp_path / "out" / f"a_channel{c}.wav")[0] for c in (1, 2, 3)]
    np.testing.assert_allclose(sum(read), waveform, atol=3 * 0.5 / 32768 + 1e-6)


def test_loud_channels_do_not_clip(separator, tmp_path):
    waveform = 9 * sine(4000, 16000)
    soundfile.write(tmp_path / "loud.wav", waveform, 16000, subtype="FLOAT")
    separate_recordings(separator, recordings_of(tmp_path / "loud.wav"), tmp_path / "out")
    read = [soundfile.read(tmp_path / "out" / f"loud_channel{c}.wav")[0] for c in (1, 2, 3)]
    np.testing.assert_allclose(sum(read), waveform, atol=1e-5)


def test_a_folder_skips_broken_files_and_goes_on_where_it_stopped(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "b.flac", "sub/c.wav"):
        soundfile.write(source / name, sine(3000, 16000), 16000)
    (source / "broken.wav").write_text("no sound")
    (source / "sub" / "d.M4A").write_text("not read")
    recordings = recordings_of(source)
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, len(summary.skipped)) == (4, 0, 2)
    assert ["d.M4A" in summary.skipped[0], "broken.wav" in summary.skipped[1]] == [True, True]
    names = sorted(p.relative_to(output).as_posix() for p in output.rglob("*_channel1.wav"))
    assert names == [f"{n}_channel1.wav" for n in ("a", "b.flac", "b.wav", "sub/c")]
    before = {p: p.read_bytes() for p in output.rglob("*.wav")}
    for channel in (1, 2, 3):
        (output / f"a_channel{channel}.wav").unlink()
    (output / "b.wav_channel2.wav").unlink()
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, len(summary.skipped)) == (2, 2, 2)
    assert summary.again == []
    assert {p: p.read_bytes() for p in output.rglob("*.wav")} == before
    assert not list(output.glob(".*"))
    assert (output / "summary.csv").read_text().count("\n") == 1 + 4 * 3


def test_what_is_not_known_to_be_its_channel_is_never_overwritten(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(3000, 16000), 16000)
    recordings = recordings_of(tmp_path / "a.wav")
    (tmp_path / "a_channel2.wav").write_text("precious")
    with pytest.raises(InputError, match=r"a_channel2\.wav: exists already, and separated\.jsonl"):
        separate_recordings(separator, recordings, tmp_path)
    assert (tmp_path / "a_channel2.wav").read_text() == "precious"
    (tmp_path / "a_channel2.wav").unlink()
    (tmp_path / "summary.csv").write_text("precious")
    with pytest.raises(InputError, match=r"summary\.csv: exists already"):
        separate_recordings(separator, recordings, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "summary.csv"]
    with pytest.raises(InputError, match=r"missing\.wav"):
        recordings_of(pathlib.Path(tmp_path) / "missing.wav")


def channel_sum(output, name):
    return sum(soundfile.read(file)[0] for file in sorted(output.glob(f"{name}_channel?.wav")))


def test_a_changed_recording_is_separated_again(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        soundfile.write(source / f"{name}.wav", sine(3000, 16000), 16000)
    recordings = recordings_of(source)
    separate_recordings(separator, recordings, output)
    untouched = (output / "b_channel1.wav").stat()

    times = (source / "a.wav").stat()
    noise = np.round(1000 * np.random.default_rng(0).normal(size=3000)) / 32768
    soundfile.write(source / "a.wav", noise, 16000)  # of the same size
    os.utime(source / "a.wav", ns=(times.st_atime_ns, times.st_mtime_ns))  # and time
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, summary.skipped) == (1, 1, [])
    (again,) = summary.again
    assert again == f"{source / 'a.wav'}: had changed; its channels were replaced"
    np.testing.assert_allclose(channel_sum(output, "a"), noise, atol=3 * 0.5 / 32768 + 1e-6)
    assert (output / "b_channel1.wav").stat() == untouched
    rows = (output / "summary.csv").read_text().splitlines()
    assert sorted(row.split(",")[0] for row in rows[1:]) == ["a"] * 3 + ["b"] * 3

    # The same content under another time, or in another place, is the same recording.
    os.utime(source / "a.wav")
    shutil.copy(source / "b.wav", tmp_path / "b.wav")
    assert separate_recordings(separator, recordings, output).found == 2
    elsewhere = recordings_of(tmp_path / "b.wav")
    assert separate_recordings(separator, elsewhere, output).found == 1
    soundfile.write(tmp_path / "b.wav", noise, 16000)  # another one of that name is not
    with pytest.raises(InputError, match=r"b_channel1\.wav: is a channel of .*, not of .*/b\.wav"):
        separate_recordings(separator, elsewhere, tmp_path / "out")
    assert (output / "b_channel1.wav").stat() == untouched


def test_edited_channels_are_not_replaced(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(3000, 16000), 16000)
    recordings, output = recordings_of(tmp_path / "a.wav"), tmp_path / "out"
    separate_recordings(separator, recordings, output)
    edited = np.zeros(3000)
    soundfile.write(output / "a_channel1.wav", edited, 16000)  # of the same size
    assert separate_recordings(separator, recordings, output).found == 1
    soundfile.write(tmp_path / "a.wav", 0.5 * sine(3000, 16000), 16000)
    with pytest.raises(InputError, match=r"a_channel1\.wav: was changed after it was written"):
        separate_recordings(separator, recordings, output)
    np.testing.assert_array_equal(soundfile.read(output / "a_channel1.wav")[0], edited)


def test_channels_of_other_settings_are_not_taken_for_these(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(3000, 8000), 8000)
    recordings, output = recordings_of(tmp_path / "a.wav"), tmp_path / "out"
    separate_recordings(separator, recordings, output)
    files = {file: file.read_bytes() for file in output.iterdir()}
    other = Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")
    for what, use, options in (
        ("separator=", other, {}),
        ("rate=separator, now input", separator, {"keep_input_rate": True}),
        (r"chunk_seconds=30\.0, now 1\.0", separator, {"chunk_seconds": 1.0}),
    ):
        with pytest.raises(InputError, match=f"out: holds channels made with {what}"):
            separate_recordings(use, recordings, output, **options)
        assert {file: file.read_bytes() for file in output.iterdir()} == files
    path = tmp_path / "same.keras"
    separator.save(path)
    assert separate_recordings(keras.saving.load_model(path), recordings, output).found == 1
    for file in output.glob("*_channel?.wav"):
        file.unlink()
    assert separate_recordings(other, recordings, output).separated == 1
    assert (output / "summary.csv").read_text().count("\n") == 1 + 3


def test_a_run_killed_between_two_channels_goes_on(separator, tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", sine(3000, 16000), 16000)
    recordings, output = recordings_of(tmp_path), tmp_path / "out"
    separate_recordings(separator, recordings, output)
    table = (output / "summary.csv").read_text()
    (output / "b_channel3.wav").unlink()  # had no name yet
    (output / "summary.csv").write_text(table[: len(table) - 30])
    with open(output / "separated.jsonl", "a") as record:
        record.write('{"name": "c", "path": "/c.w')
    (output / ".separating-killed").mkdir()
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, summary.skipped) == (1, 1, [])
    assert (output / "summary.csv").read_text() == table
    assert separate_recordings(separator, recordings, output).found == 2
    assert not list(output.glob(".*"))


def test_a_run_over_what_is_done_reads_no_recording(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(3000, 16000), 16000)
    recordings, output = recordings_of(tmp_path / "a.wav"), tmp_path / "out"
    separate_recordings(separator, recordings, output)
    read = (tmp_path / "a.wav").stat().st_atime_ns, (output / "a_channel1.wav").stat().st_atime_ns
    opened, noting = [], True

    def note(event, arguments):  # stays until the process ends
        if noting and event == "open" and str(arguments[0]).endswith(".wav"):
            opened.append(arguments[0])

    sys.addaudithook(note)
    assert separate_recordings(separator, recordings, output).found == 1
    noting = False
    assert opened == []
    assert read == (
        (tmp_path / "a.wav").stat().st_atime_ns,
        (output / "a_channel1.wav").stat().st_atime_ns,
    )


def test_a_full_disk_ends_the_run_which_can_be_repeated(separator, tmp_path):
    resource = pytest.importorskip("resource")
    for name, samples in (("a", 3000), ("b", 300_000), ("c", 3000)):
        soundfile.write(tmp_path / f"{name}.wav", sine(samples, 16000), 16000)
    recordings, output = recordings_of(tmp_path), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    says = r"out: could not be written: File too large; 1 of 3 recordings are done, the same"
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=says):
            separate_recordings(separator, recordings, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = [
        *("a.labels.txt", "a.selections.txt", "a_channel1.wav", "a_channel2.wav", "a_channel3.wav"),
        *("intervals.csv", "separated.jsonl", "summary.csv"),
    ]
    assert sorted(file.name for file in output.iterdir()) == names
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, summary.skipped) == (2, 1, [])


@pytest.mark.parametrize(
    ("decibels", "subtype", "expected"),
    [
        (-6, "PCM_16", "PCM_16"),
        (-20, "PCM_16", "PCM_16"),
        (-40, "PCM_16", "FLOAT"),
        (-6, "PCM_24", "FLOAT"),
        (-60, "FLOAT", "FLOAT"),
        (-90, "FLOAT", "FLOAT"),
        (-103, "FLOAT", "FLOAT"),
    ],
)
def test_what_is_lost_in_rounding_lies_far_below_the_recording(
    separator, tmp_path, decibels, subtype, expected
):
    tone = 10 ** (decibels / 20) * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    soundfile.write(tmp_path / "a.wav", tone, 16000, subtype=subtype)
    recording = soundfile.read(tmp_path / "a.wav")[0]
    separate_recordings(separator, recordings_of(tmp_path / "a.wav"), tmp_path / "out")
    assert soundfile.info(tmp_path / "out" / "a_channel1.wav").subtype == expected
    error = channel_sum(tmp_path / "out", "a") - recording
    below = 10 * np.log10(np.mean(recording**2) / max(np.mean(error**2), 1e-30))
    assert below > (90 if expected == "FLOAT" else 60)


@pytest.mark.parametrize("keep_input_rate", [True, False])
def test_a_recording_outside_the_separators_band_is_named(separator, tmp_path, keep_input_rate):
    t = np.arange(192_000) / 384_000
    ultrasound = 0.3 * np.sin(2 * np.pi * (40_000 + 20_000 * t) * t)  # 40 to 60 kHz
    audible = 0.001 * np.sin(2 * np.pi * 1000 * t)
    for name, sound in (("bat", ultrasound), ("bat and tone", ultrasound + audible)):
        soundfile.write(tmp_path / f"{name}.wav", sound, 384_000)
    summary = separate_recordings(
        separator, recordings_of(tmp_path), tmp_path / "out", keep_input_rate
    )
    assert summary.separated == 1
    (warning,) = summary.warnings
    head, _, rest = warning.partition("only ")
    assert head == f"{tmp_path}/bat and tone.wav: "
    share, _, rest = rest.partition(" % ")
    assert rest.startswith("of its power lies below 8000 Hz, the band of this model; a lower speed")
    # And the click with which the sweep ends.
    assert float(share) == pytest.approx(100 * (0.001 / 0.3) ** 2, rel=0.3)
    (reason,) = summary.skipped
    assert reason.startswith(f"{tmp_path}/bat.wav: holds nothing below 8000 Hz, the band of")
    assert not list((tmp_path / "out").glob("bat_*"))


def test_channels_in_the_input_folder_are_no_recordings(separator, tmp_path):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", sine(3000, 16000), 16000)
    output = tmp_path / "channels"
    (tmp_path / "link").symlink_to("channels")
    for given in (output, tmp_path / "link", output):
        recordings = recordings_of(tmp_path, exclude=given)
        assert sorted(recordings.names) == ["a.wav", "b.wav"]
        separate_recordings(separator, recordings, given)
    # Nor are they in the next run, with another output folder or none.
    separate_recordings(separator, recordings_of(tmp_path / "a.wav"), tmp_path)
    for other in (tmp_path / "other", None, tmp_path.parent):
        recordings = recordings_of(tmp_path, exclude=other)
        assert sorted(recordings.names) == ["a.wav", "b.wav"]
    with pytest.raises(InputError, match="is the input and the output; expected another"):
        recordings_of(tmp_path, exclude=tmp_path / "channels" / "..")
    with pytest.raises(InputError, match="holds only channels"):
        recordings_of(output)


def test_names_that_would_meet_on_some_file_system_keep_their_suffix(tmp_path):
    names = ["A.flac", "a.wav", "b.wav", "b.wav.wav", "c.wav", "gru\u0308n.wav", "gr\u00fcn.flac"]
    for name in names:
        soundfile.write(tmp_path / name, sine(100, 16000), 16000)
    recordings = recordings_of(tmp_path)
    found = dict(zip(recordings.names, output_names(recordings), strict=True))
    kept = {name: name for name in names}
    assert found == kept | {"c.wav": "c", "b.wav": "b", "b.wav.wav": "b.wav.wav"}


def test_a_recording_keeps_its_name_when_another_of_its_stem_comes(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    soundfile.write(source / "b.wav", sine(3000, 16000), 16000)
    separate_recordings(separator, recordings_of(source), output)
    soundfile.write(source / "b.flac", sine(2000, 16000), 16000)
    summary = separate_recordings(separator, recordings_of(source), output)
    assert (summary.separated, summary.found, summary.skipped) == (1, 1, [])
    names = sorted(file.name for file in output.glob("*_channel1.wav"))
    assert names == ["b.flac_channel1.wav", "b_channel1.wav"]


def test_one_output_that_cannot_be_named_is_one_recording_skipped(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    for name in ("a" * 250, "b", "sub/c"):
        soundfile.write(source / f"{name}.wav", sine(3000, 16000), 16000)
    output.mkdir()
    (output / "sub").write_text("a file")
    summary = separate_recordings(separator, recordings_of(source), output)
    assert (summary.separated, summary.found) == (1, 0)
    assert ["File name too long" in summary.skipped[0], "sub" in summary.skipped[1]] == [True] * 2
    assert (output / "b_channel3.wav").exists()


def test_a_recording_that_changes_while_it_is_read(tmp_path):
    class Slow(Separator):
        def predict_on_batch(self, x):
            with open(tmp_path / "a.wav", "ab") as growing:
                growing.write(b"more")
            return super().predict_on_batch(x)

    soundfile.write(tmp_path / "a.wav", sine(3000, 16000), 16000)
    slow = Slow(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")
    with pytest.raises(InputError, match=r"a\.wav: was changed while it was read"):
        separate_recordings(slow, recordings_of(tmp_path / "a.wav"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recording_that_does_not_fit_into_memory_is_one_recording_skipped(tmp_path):
    class Hungry(Separator):
        def predict_on_batch(self, x):
            if x.shape[1] > 5000:
                np.zeros(2**50)
            return super().predict_on_batch(x)

    for name, samples in (("long", 6000), ("short", 3000)):
        soundfile.write(tmp_path / f"{name}.wav", sine(samples, 16000), 16000)
    hungry = Hungry(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")
    summary = separate_recordings(hungry, recordings_of(tmp_path), tmp_path / "out")
    assert summary.separated == 1
    (reason,) = summary.skipped
    assert reason.startswith(f"{tmp_path}/long.wav: does not fit into memory")


def test_a_signal_ends_the_command_in_one_line_and_leaves_what_is_done(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    separator.build()
    separator.save(tmp_path / "separator.keras")
    for i in range(100):
        soundfile.write(source / f"{i}.wav", sine(3000, 16000), 16000)
    (output / ".separating-killed").mkdir(parents=True)
    command = [
        sys.executable, "-m", "sepssl.cli.separate", f"--separator={tmp_path}/separator.keras",
        f"--input={source}", f"--output={output}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    table = output / "summary.csv"
    while process.poll() is None and not (table.exists() and table.read_text().count("\n") > 1):
        time.sleep(0.01)
    assert len(list(output.glob(".separating-*"))) == 1  # its own
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert [line for line in error.splitlines() if line] == [error.strip()], error
    assert error.strip().startswith("sepssl-separate: ")
    assert not list(output.glob(".separating-*"))
    done = len(list(output.glob("*_channel3.wav")))
    assert 1 <= done < 100
    assert 1 + 3 * (done - 1) <= table.read_text().count("\n") <= 1 + 3 * done
    summary = separate_recordings(separator, recordings_of(source), output)
    assert (summary.separated, summary.found, summary.skipped) == (100 - done, done, [])
    assert table.read_text().count("\n") == 1 + 3 * 100


def test_two_processes_in_one_folder(separator, tmp_path):
    """Here threads: locks are held by whoever has the file open."""
    for name in "abcdef":
        soundfile.write(tmp_path / f"{name}.wav", sine(3000, 16000), 16000)
    recordings, output = recordings_of(tmp_path), tmp_path / "out"
    last_first = Subset(recordings, reversed(range(6)))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(separate_recordings, separator, given, output, verbose=False)
            for given in (recordings, last_first)
        ]
        summaries = [run.result() for run in runs]
    assert sum(summary.separated for summary in summaries) == 6
    for summary in summaries:
        assert all("was written by another process" in line or "exists" in line
                   for line in summary.skipped)  # fmt: skip
    summary = separate_recordings(separator, recordings, output)
    assert (summary.found, summary.skipped) == (6, [])
    rows = (output / "summary.csv").read_text().splitlines()
    assert sorted(row.split(",")[0] for row in rows[1:]) == sorted("abcdef" * 3)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_file_in_chunks_equals_the_waveform_in_chunks(separator, tmp_path, rate):
    waveform = 0.1 * np.random.default_rng(0).normal(size=5 * rate).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, rate, subtype="FLOAT")
    recordings = recordings_of(tmp_path / "a.wav")
    separate_recordings(separator, recordings, tmp_path / "out", True, chunk_seconds=1.0)
    read = [soundfile.read(tmp_path / "out" / f"a_channel{c}.wav")[0] for c in (1, 2, 3)]
    expected = separator.separate(waveform, rate, chunk_seconds=1.0)
    # Files share what resampling lost in blocks of another length.
    tolerance = 0.5 / 32768 + (1e-6 if rate == 16000 else 1e-3)
    np.testing.assert_allclose(read, expected, atol=tolerance)


@pytest.mark.parametrize("block", [16000, 1700, 1])
def test_levels_and_activity_hand_worked(block):
    loud = np.tile([0.5, -0.5], 8000)  # one second of power 1/4
    half = np.tile([0.1, -0.1, -0.1, 0.1], 4000)
    half[8000:] = 0.0
    channels = np.stack([loud, half, 0 * loud]).astype(np.float32)
    measured = ChannelLevels(3, 16000)
    for start in range(0, 16000, block):
        measured.add(channels[:, start : start + block])
    # The two are orthogonal: power 0.25 + 0.01 for half of the time.
    levels, active, intervals = measured.relative_to(0.255, Activity())
    expected = 10 * np.log10([0.25 / 0.255, 0.005 / 0.255])
    np.testing.assert_allclose(levels, [*expected, -100.0], atol=1e-4)
    np.testing.assert_allclose(active, [1.0, 0.5, 0.0])
    assert measured.peak == 0.5
    assert intervals == [(1, 0.0, 1.0, -0.09), (2, 0.0, 0.5, -14.07)]


@pytest.mark.parametrize("rate", [16000, 11025])
def test_intervals_hand_worked(rate):
    frame = round(0.1 * rate)
    #          0 1 2 3 4 5 6 7 8 9 10, frames; 10 is shorter
    pattern = [1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1]
    amplitude = np.repeat(np.array(pattern, np.float32), frame)[: -frame // 2]
    measured = ChannelLevels(1, rate)
    measured.add(0.5 * amplitude[None])
    end = len(amplitude) / rate

    def found(db, gap, length, power=0.25):
        intervals = measured.relative_to(power, Activity(db, gap, length))[2]
        return [[round(10 * one.start, 1), round(10 * one.end, 1)] for one in intervals]

    t = round(10 * end, 1)
    # In tenths of a second; at 11,025 Hz a frame is 1,102 samples, a little less.
    assert found(-20, 0, 0) == [[0, 1], [3, 5], [8, 9], [10, t]]
    assert found(-20, 0.1, 0) == [[0, 1], [3, 5], [8, 9], [10, t]]
    assert found(-20, 0.15, 0) == [[0, 1], [3, 5], [8, t]]
    assert found(-20, 0.25, 0) == [[0, 5], [8, t]]
    assert found(-20, 0.25, 0.3) == [[0, 5]]
    assert found(-20, 1, 0) == [[0, t]]
    assert found(-20, 0, 0.15) == [[3, 5]]
    assert found(0, 0, 0) == []  # not above
    (whole,) = measured.relative_to(0.25, Activity(-20, 1, 0))[2]
    assert whole.end == round(end, 6)
    share = amplitude.mean()
    assert whole.level_db == pytest.approx(10 * np.log10(share), abs=0.006)


def test_intervals_beside_the_channels(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    sound = sine(56_000, 16000)
    sound[16000:32000] = 0
    for name in ("a", "b"):
        soundfile.write(source / f"{name}.wav", sound, 16000)
    manifest = source / "clips.csv"
    manifest.write_text("path,start,duration\na.wav,,\nb.wav,0.5,3\n")
    recordings = recordings_of(manifest)
    summary = separate_recordings(separator, recordings, output, clips=True)
    assert summary.intervals == output / "intervals.csv"
    part = "b#0.50-3.50"
    begins = {"a": "0.000000", part: "0.500000"}
    with open(output / "intervals.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    for name, begin in begins.items():
        own = [row for row in rows if row["recording"] == name]
        assert own
        for channel in {row["channel"] for row in own}:
            one, two = [row for row in own if row["channel"] == channel]
            assert (one["start"], two["end"]) == (begin, "3.500000")
            # The filters of the separator reach a few ms into the silence.
            assert one["end"] in ("1.000000", "1.100000")
            assert two["start"] in ("1.900000", "2.000000")
        lines = (output / f"{name}.selections.txt").read_text().splitlines()
        raven = [line.split("\t") for line in lines]
        assert raven[0][-3:] == ["File Offset (s)", "Separated Channel", "Level (dB)"]
        assert [[row[3], row[4], row[-2], row[7]] for row in raven[1:]] == [
            [row["start"], row["end"], row["channel"], f"{source}/{name[0]}.wav"] for row in own
        ]
        lines = (output / f"{name}.labels.txt").read_text().splitlines()
        assert sorted(line.split("\t") for line in lines) == sorted(
            [row["start"], row["end"], f"channel {row['channel']}"] for row in own
        )
        offset = 0.5 if name == part else 0.0
        clips = sorted(path.name for path in (output / f"{name}_clips").iterdir())
        assert clips == sorted(
            f"channel{r['channel']}_{float(r['start']):.2f}-{float(r['end']):.2f}.wav" for r in own
        )
        for clip in (output / f"{name}_clips").iterdir():
            channel, start, end = re.match(r"channel(\d)_(.*)-(.*)\.wav", clip.name).groups()
            whole, _ = soundfile.read(output / f"{name}_channel{channel}.wav", dtype="int16")
            first, last = (round((float(t) - offset) * 16000) for t in (start, end))
            np.testing.assert_array_equal(soundfile.read(clip, dtype="int16")[0], whole[first:last])


@pytest.mark.parametrize("consistency", ["uniform", "none"])  # whether channels add up
def test_other_intervals_are_found_in_the_channels_that_are_there(consistency, tmp_path):
    separator = Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), consistency)
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    steps = np.repeat([1, 0.03, 1, 0.03], 8000)
    for name in ("a", "b"):
        soundfile.write(source / f"{name}.wav", steps * sine(32_000, 16000), 16000, "FLOAT")
    recordings = recordings_of(source)
    separate_recordings(separator, recordings, output, activity=Activity(-50))
    all_day = (output / "intervals.csv").read_text()
    channels = {file: file.read_bytes() for file in output.glob("*.wav")}
    (output / "b.labels.txt").write_text("mine")  # edited in Audacity
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found) == (0, 1)
    assert summary.skipped == [
        f"{output}/b.labels.txt: is in the way of new intervals, since settings, recording or "
        "channels changed; expected it to be moved or deleted, and the command to be repeated"
    ]
    (output / "b.labels.txt").unlink()
    assert separate_recordings(separator, recordings, output).found == 2
    assert {file: file.read_bytes() for file in output.glob("*.wav")} == channels
    separate_recordings(separator, recordings, tmp_path / "new")
    for name in ("intervals.csv", "summary.csv", "a.labels.txt", "b.selections.txt"):
        assert (output / name).read_text() == (tmp_path / "new" / name).read_text() != all_day
    # Labels are kept once they are edited, and written where they are missing.
    (output / "a.labels.txt").write_text("mine")
    (output / "b.labels.txt").unlink()
    separate_recordings(separator, recordings, output)
    assert (output / "a.labels.txt").read_text() == "mine"
    assert (output / "b.labels.txt").read_text() == (tmp_path / "new" / "b.labels.txt").read_text()


def test_channels_of_an_earlier_version_get_intervals(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(8000, 16000), 16000)
    recordings, output = recordings_of(tmp_path / "a.wav"), tmp_path / "out"
    separate_recordings(separator, recordings, output)
    expected = {
        file.name: file.read_bytes() for file in output.iterdir() if file.suffix != ".jsonl"
    }
    header, line = (output / "separated.jsonl").read_text().splitlines()
    entry = json.loads(line)
    for key in ("offset", "rate", "activity", "intervals"):
        del entry[key]
    (output / "separated.jsonl").write_text(f"{header}\n{json.dumps(entry)}\n")
    for name in ("a.labels.txt", "a.selections.txt", "intervals.csv"):
        (output / name).unlink()
    assert separate_recordings(separator, recordings, output).found == 1
    for name, content in expected.items():
        assert (output / name).read_bytes() == content


def test_a_table_of_all_recordings_is_written_and_kept(separator, tmp_path):
    output = tmp_path / "out"
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", sine(3000, 16000), 16000)
        recordings = recordings_of(tmp_path / f"{name}.wav")
        summary = separate_recordings(separator, recordings, output)
        assert summary.table == output / "summary.csv"
    rows = [line.split(",") for line in summary.table.read_text().split()]
    assert rows[0] == ["recording", "channel", "level_db", "active"]
    assert [row[:2] for row in rows[1:]] == [[n, c] for n in "ab" for c in "123"]
    assert [row[2:] for row in rows[1:4]] == [row[2:] for row in rows[4:]]
    # No level is -0.0 dB.
    header, *entries = (output / "separated.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in entries]
    entries[0]["levels"][0] = -0.04
    lines = [header, *map(json.dumps, entries)]
    (output / "separated.jsonl").write_text("\n".join(lines) + "\n")
    summary.table.unlink()
    separate_recordings(separator, recordings_of(tmp_path / "a.wav"), output)
    assert summary.table.read_text().splitlines()[1].split(",")[2] == "0.0"


def test_a_silent_recording_leaves_nothing(separator, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(3000), 16000)
    recordings = recordings_of(tmp_path / "silent.wav")
    with pytest.raises(InputError, match=r"silent\.wav: is silent"):
        separate_recordings(separator, recordings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_survives_odd_names_and_damaged_channels(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    odd = os.fsdecode(b"odd\xff")
    for name in ("recording", odd, "b"):
        soundfile.write(os.fsencode(source / f"{name}.wav"), sine(3000, 16000), 16000)
    recordings = recordings_of(source)
    table = separate_recordings(separator, recordings, output).table
    rows = table.read_bytes().split()
    assert len(rows) == 1 + 3 * 3
    (output / "b_channel1.wav").write_bytes(b"")
    soundfile.write(os.fsencode(output / f"{odd}_channel2.wav"), sine(100, 16000), 16000)
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, len(summary.skipped)) == (0, 1, 2)
    assert [row for row in table.read_bytes().split() if row.startswith(b"recording,")] == [
        row for row in rows if row.startswith(b"recording,")
    ]


def test_a_recording_of_less_than_a_sample_of_the_separators(separator, tmp_path):
    channels = separator.separate(np.full(1, 0.5, np.float32), 44100)
    np.testing.assert_allclose(channels.sum(axis=0), [0.5], atol=1e-6)
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.5), 44100)
    with pytest.raises(InputError, match=r"one\.wav: is 0\.000 s long; expected"):
        recordings_of(tmp_path / "one.wav")
    soundfile.write(tmp_path / "two.wav", np.full(2, 0.5), 44100)
    recordings = recordings_of(tmp_path / "two.wav")
    assert separate_recordings(separator, recordings, tmp_path / "out").separated == 1


def test_a_manifest_of_files_and_parts_of_files(separator, tmp_path):
    rng = np.random.default_rng(0)
    sounds = {"x/a.wav": 40_000, "x/a.flac": 8000, "b.wav": 8000}
    for name, samples in sounds.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sounds[name] = rng.integers(-8000, 8000, samples) / 32768
        soundfile.write(tmp_path / name, sounds[name], 8000)
    manifest, output = tmp_path / "x" / "clips.csv", tmp_path / "out"
    rows = ["a.wav,0.5,1", "a.wav,0.5,1.5", "a.wav,4,", "a.flac,,", "../b.wav,,", "../none.wav,,"]
    manifest.write_text("\n".join(["path,start,duration", *rows]))
    recordings = recordings_of(manifest)
    names = ["x/a.wav#0.50-1.50", "x/a.wav#0.50-2.00", "x/a.wav#4.00", "x/a.flac", "b"]
    assert output_names(recordings) == names
    summary = separate_recordings(separator, recordings, output, keep_input_rate=True)
    assert (summary.separated, summary.found) == (5, 0)
    (line,) = summary.skipped
    assert "none.wav: does not exist" in line
    parts = {
        "x/a.wav#0.50-1.50": sounds["x/a.wav"][4000:12000],
        "x/a.wav#0.50-2.00": sounds["x/a.wav"][4000:16000],
        "x/a.wav#4.00": sounds["x/a.wav"][32000:],
        "x/a.flac": sounds["x/a.flac"],
        "b": sounds["b.wav"],
    }
    for name, sound in parts.items():
        np.testing.assert_allclose(channel_sum(output, name), sound, atol=3 * 0.5 / 32768 + 1e-6)
    record = [json.loads(line) for line in (output / "separated.jsonl").read_text().splitlines()]
    assert {(entry["name"], entry["path"], entry["part"]) for entry in record[1:]} == {
        (
            name,
            f"{tmp_path}/{name.split('#')[0].replace('b', 'b.wav')}",
            "".join(name.partition("#")[1:]),
        )
        for name in names
    }

    # Rows in another order, or under another start, are known by what they name.
    manifest.write_text("\n".join(["path,start,duration", *reversed(rows[:4]), "a.wav,0.25,1"]))
    recordings = recordings_of(manifest)
    assert output_names(recordings)[:2] == ["a.flac", "a.wav#4.00"]  # not as they are here
    summary = separate_recordings(separator, recordings, output, keep_input_rate=True)
    assert (summary.separated, summary.found, summary.skipped) == (1, 4, [])
    soundfile.write(tmp_path / "x" / "a.wav", -sounds["x/a.wav"], 8000)
    summary = separate_recordings(separator, recordings_of(manifest), output, keep_input_rate=True)
    assert (summary.separated, summary.found, len(summary.again)) == (4, 1, 4)
    assert f"{tmp_path}/x/a.wav#4.00: had changed; its channels were replaced" in summary.again
    np.testing.assert_allclose(
        channel_sum(output, "x/a.wav#4.00"), -sounds["x/a.wav"][32000:], atol=3 * 0.5 / 32768 + 1e-6
    )


def test_a_tfds_dataset_and_scenes(separator, tmp_path):
    sounds = {800 + n: np.random.default_rng(n).integers(-8000, 8000, 800 + n) for n in range(3)}
    records = [{"audio": sound.astype(np.int16)} for sound in sounds.values()]
    audio = tfds.features.Audio(sample_rate=8000, dtype=np.int16)
    output = tmp_path / "out"

    def separated():
        recordings = open_recordings("tfds:toy", 16000, output, tmp_path / "data")
        assert output_names(recordings) == [f"toy/1.0.0/eval[{i}]" for i in range(3)]
        return separate_recordings(separator, recordings, output, keep_input_rate=True)

    prepare(tmp_path / "data", {"audio": audio}, {"eval": records})
    assert separated().separated == 3
    for index in range(3):
        total = channel_sum(output, f"toy/1.0.0/eval[[]{index}]")
        np.testing.assert_allclose(total, sounds[len(total)] / 32768, atol=3 * 0.5 / 32768 + 1e-6)
    assert separated().found == 3
    shutil.rmtree(tmp_path / "data")  # other records of the same names
    records = [{"audio": -record["audio"]} for record in records]
    prepare(tmp_path / "data", {"audio": audio}, {"eval": records})
    summary = separated()
    assert (summary.separated, summary.found, len(summary.skipped)) == (0, 0, 3)
    assert "not of toy/1.0.0/eval[0]; expected another output folder" in summary.skipped[0]

    scenes = Subset(open_recordings("scenes", 16000), [7])
    assert separate_recordings(separator, scenes, tmp_path / "scenes").separated == 1
    total = channel_sum(tmp_path / "scenes", "scenes/test/0/000007")
    np.testing.assert_allclose(total, scenes.read(0), atol=1e-5)
    assert separate_recordings(separator, scenes, tmp_path / "scenes").found == 1


def test_truncated_recordings(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    waveform = sine(16000, 16000)
    for name in ("a.wav", "b.wav"):
        soundfile.write(source / name, waveform, 16000)
    whole = (source / "a.wav").read_bytes()
    (source / "a.wav").write_bytes(whole[:-8000])

    def separate(folder=output, keep=True):
        recordings = open_recordings(source, 16000, allow_truncated=keep)
        return separate_recordings(separator, recordings, folder, verbose=False)

    def recorded():
        lines = (output / "separated.jsonl").read_text().splitlines()
        return [(entry["name"], entry["truncated"]) for entry in map(json.loads, lines[1:])]

    line = f"{source / 'a.wav'}: 0.75 of 1.00 s"
    assert separate().truncated == separate().truncated == [line]
    assert recorded() == [("a", "0.75 of 1.00 s"), ("b", "")]
    total = channel_sum(output, "a")
    assert len(total) == 12000
    np.testing.assert_allclose(total, waveform[:12000], atol=4 * 0.5 / 32768 + 1e-6)
    with pytest.raises(InputError, match="made with truncated=keep, now skip"):
        separate(keep=False)
    (source / "a.wav").write_bytes(whole)
    summary = separate()
    assert (summary.separated, summary.found, summary.truncated) == (1, 1, [])
    assert recorded()[-1] == ("a", "")
    assert len(channel_sum(output, "a")) == 16000

    # A record from before goes on as what it was made with.
    separate(tmp_path / "before", keep=False)
    record = tmp_path / "before" / "separated.jsonl"
    head, *lines = record.read_text().splitlines()
    settings = json.loads(head)
    assert settings.pop("truncated") == "skip"
    record.write_text("\n".join([json.dumps(settings), *lines]) + "\n")
    soundfile.write(source / "c.wav", waveform, 16000)
    summary = separate(tmp_path / "before", keep=False)
    assert (summary.separated, summary.found) == (1, 2)
    with pytest.raises(InputError, match="made with truncated=skip, now keep"):
        separate(tmp_path / "before")


def test_recordings_played_at_another_speed(separator, tmp_path):
    """Channels line up with the recording: as long, in its own Hz."""
    waveform = np.concatenate([sine(57600, 38400), 0.001 * sine(57600, 38400)])
    for name, rate in (("fast", 384000), ("slow", 38400)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", waveform, rate, subtype="FLOAT")
    for keep in (False, True):
        outputs = [tmp_path / f"{name}_{keep}" for name in ("fast", "slow")]
        for output, speed in zip(outputs, (0.1, 1.0), strict=True):
            source = tmp_path / output.name.split("_")[0]
            recordings = open_recordings(source, 16000, speed=speed)
            separate_recordings(separator, recordings, output, keep, verbose=False)
        for channel in (1, 2, 3):
            ours, rate = soundfile.read(outputs[0] / f"a_channel{channel}.wav")
            theirs, other = soundfile.read(outputs[1] / f"a_channel{channel}.wav")
            assert (rate, other) == ((384000, 38400) if keep else (160000, 16000))
            assert len(ours) == (115200 if keep else 48000)  # 0.3 s
            np.testing.assert_array_equal(ours, theirs)
        selection = (outputs[0] / "a.selections.txt").read_text().splitlines()[1].split("\t")
        assert float(selection[4]) == pytest.approx(0.2)  # of 0.15 s, to the frame of 0.1 s
        assert float(selection[6]) == (192000 if keep else 80000)
    with pytest.raises(InputError, match=r"made with speed=0\.1, now 1\.0"):
        separate_recordings(separator, recordings_of(tmp_path / "fast"), outputs[0], True)
    recordings = open_recordings(tmp_path / "fast", 16000, speed=0.15)
    with pytest.raises(InputError, match=r"would have 106666\.6667 Hz at the speed of"):
        separate_recordings(separator, recordings, tmp_path / "new")
