import os
import pathlib

import numpy as np
import pytest
import soundfile

from sepssl.errors import InputError
from sepssl.pipelines.separate import (
    channel_activity,
    list_recordings,
    separate_recordings,
)
from sepssl.separation import TDCN, Separator, STFTBasis


@pytest.fixture(scope="module")
def separator():
    return Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")


def sine(samples, rate):
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype(np.float32)


def test_files_add_up_to_the_input_but_for_rounding(separator, tmp_path):
    waveform = sine(20000, 16000)
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    recordings = list_recordings(tmp_path / "a.wav")
    assert separate_recordings(separator, recordings, tmp_path / "out").separated == 1
    read = [soundfile.read(tmp_path / "out" / f"a_channel{c}.wav")[0] for c in (1, 2, 3)]
    np.testing.assert_allclose(sum(read), waveform, atol=3 * 0.5 / 32768 + 1e-6)


def test_loud_channels_do_not_clip(separator, tmp_path):
    waveform = 9 * sine(4000, 16000)
    soundfile.write(tmp_path / "loud.wav", waveform, 16000, subtype="FLOAT")
    separate_recordings(separator, list_recordings(tmp_path / "loud.wav"), tmp_path / "out")
    read = [soundfile.read(tmp_path / "out" / f"loud_channel{c}.wav")[0] for c in (1, 2, 3)]
    np.testing.assert_allclose(sum(read), waveform, atol=1e-5)


def test_a_folder_skips_broken_files_and_goes_on_where_it_stopped(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "b.flac", "sub/c.wav"):
        soundfile.write(source / name, sine(3000, 16000), 16000)
    (source / "broken.wav").write_text("no sound")
    recordings = list_recordings(source)
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, len(summary.skipped)) == (4, 0, 1)
    assert "broken.wav" in summary.skipped[0]
    names = sorted(p.relative_to(output).as_posix() for p in output.rglob("*_channel1.wav"))
    assert names == [f"{n}_channel1.wav" for n in ("a", "b.flac", "b.wav", "sub/c")]
    for channel in (1, 2, 3):
        (output / f"a_channel{channel}.wav").unlink()
    (output / "b.wav_channel2.wav").unlink()  # some are there: not ours to overwrite
    before = {p: p.read_bytes() for p in output.rglob("*.wav")}
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, len(summary.skipped)) == (1, 2, 2)
    assert "b.wav_channel1.wav: exists already" in summary.skipped[0]
    assert all(p.read_bytes() == content for p, content in before.items())
    assert (output / "a_channel3.wav").exists()
    assert not list(output.glob(".*"))


def test_a_single_file_is_never_overwritten(separator, tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(3000, 16000), 16000)
    recordings = list_recordings(tmp_path / "a.wav")
    separate_recordings(separator, recordings, tmp_path)
    with pytest.raises(InputError, match=r"a_channel1\.wav: exists already"):
        separate_recordings(separator, recordings, tmp_path)
    with pytest.raises(InputError, match=r"missing\.wav"):
        list_recordings(pathlib.Path(tmp_path) / "missing.wav")


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_file_in_chunks_equals_the_waveform_in_chunks(separator, tmp_path, rate):
    waveform = 0.1 * np.random.default_rng(0).normal(size=5 * rate).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, rate, subtype="FLOAT")
    recordings = list_recordings(tmp_path / "a.wav")
    separate_recordings(separator, recordings, tmp_path / "out", True, chunk_seconds=1.0)
    read = [soundfile.read(tmp_path / "out" / f"a_channel{c}.wav")[0] for c in (1, 2, 3)]
    expected = separator.separate(waveform, rate, chunk_seconds=1.0)
    # Files share what resampling lost in blocks of another length.
    tolerance = 0.5 / 32768 + (1e-6 if rate == 16000 else 1e-3)
    np.testing.assert_allclose(read, expected, atol=tolerance)


def test_levels_and_activity_hand_worked(tmp_path):
    loud = np.tile([0.5, -0.5], 8000)  # one second of power 1/4
    half = np.tile([0.1, -0.1, -0.1, 0.1], 4000)
    half[8000:] = 0.0
    files = [tmp_path / "1.wav", tmp_path / "2.wav", tmp_path / "3.wav"]
    for file, channel in zip(files, (loud, half, 0 * loud), strict=True):
        soundfile.write(file, channel, 16000, subtype="FLOAT")
    levels, active = channel_activity(files)
    # The two are orthogonal: power 0.25 + 0.01 for half of the time.
    expected = 10 * np.log10([0.25 / 0.255, 0.005 / 0.255])
    np.testing.assert_allclose(levels, [*expected, -100.0], atol=1e-4)
    np.testing.assert_allclose(active, [1.0, 0.5, 0.0])


def test_a_table_of_all_recordings_is_written_and_kept(separator, tmp_path):
    output = tmp_path / "out"
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", sine(3000, 16000), 16000)
        recordings = list_recordings(tmp_path / f"{name}.wav")
        summary = separate_recordings(separator, recordings, output)
        assert summary.table == output / "summary.csv"
    rows = [line.split(",") for line in summary.table.read_text().split()]
    assert rows[0] == ["recording", "channel", "level_db", "active"]
    assert [row[:2] for row in rows[1:]] == [[n, c] for n in "ab" for c in "123"]
    assert [row[2:] for row in rows[1:4]] == [row[2:] for row in rows[4:]]


def test_a_silent_recording_leaves_nothing(separator, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(3000), 16000)
    recordings = list_recordings(tmp_path / "silent.wav")
    with pytest.raises(InputError, match=r"silent\.wav: is silent"):
        separate_recordings(separator, recordings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_survives_odd_names_and_damaged_channels(separator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    odd = os.fsdecode(b"odd\xff")
    for name in ("recording", odd, "b"):
        soundfile.write(os.fsencode(source / f"{name}.wav"), sine(3000, 16000), 16000)
    recordings = list_recordings(source)
    table = separate_recordings(separator, recordings, output).table
    rows = table.read_bytes().split()
    assert len(rows) == 1 + 3 * 3
    (output / "b_channel1.wav").write_bytes(b"")
    soundfile.write(os.fsencode(output / f"{odd}_channel2.wav"), sine(100, 16000), 16000)
    summary = separate_recordings(separator, recordings, output)
    assert (summary.separated, summary.found, len(summary.skipped)) == (0, 3, 2)
    assert [row for row in table.read_bytes().split() if row.startswith(b"recording,")] == [
        row for row in rows if row.startswith(b"recording,")
    ]


def test_a_recording_of_less_than_a_sample_of_the_separators(separator, tmp_path):
    channels = separator.separate(np.full(1, 0.5, np.float32), 44100)
    np.testing.assert_allclose(channels.sum(axis=0), [0.5], atol=1e-6)
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.5), 44100)
    recordings = list_recordings(tmp_path / "one.wav")
    assert separate_recordings(separator, recordings, tmp_path / "out").separated == 1
