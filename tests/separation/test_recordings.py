import pathlib

import numpy as np
import pytest
import soundfile

from sepssl.errors import InputError
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.separation.recordings import (
    list_recordings,
    separate_recording,
    separate_recordings,
)


@pytest.fixture(scope="module")
def separator():
    return Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2), "uniform")


def sine(samples, rate):
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("seconds", [0.001, 0.5, 2.3])
def test_channels_add_up_at_any_rate_and_length(separator, rate, seconds):
    waveform = 0.2 * np.random.default_rng(0).normal(size=int(seconds * rate)).astype(np.float32)
    channels = separate_recording(separator, waveform, rate, chunk_seconds=1.0)
    assert channels.shape == (3, len(waveform))
    np.testing.assert_allclose(channels.sum(axis=0), waveform, atol=1e-5)


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
