import contextlib
import os
import pathlib
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from sepssl.audio import files
from sepssl.audio.files import (
    audio_info,
    check_audio,
    read_audio,
    read_blocks,
    resampled_length,
    write_audio,
)
from sepssl.errors import InputError

RATE = 16000
LOSSLESS = [".wav", ".flac", ".aif", ".aiff"]
LOSSY = {".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III"}
ALL = [*LOSSLESS, *LOSSY]


def noise(seconds=1.0, rate=RATE, channels=None, seed=0):
    shape = int(seconds * rate) if channels is None else (channels, int(seconds * rate))
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def tone(seconds=1.0, rate=RATE, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def write(path, waveform=None, rate=RATE, **kwargs):
    if waveform is None:
        waveform = noise()
    write_audio(path, waveform, rate, LOSSY.get(path.suffix.lower(), "PCM_16"), **kwargs)
    return path


def wav(*chunks, head=b"RIFF", order="<"):
    """A RIFF file of (name, size, body) chunks, exactly as given: nothing is padded."""
    body = b"".join(name + struct.pack(order + "I", size) + data for name, size, data in chunks)
    return head + struct.pack(order + "I", len(body) + 4) + b"WAVE" + body


FMT = (b"fmt ", 16, struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
PCM = (np.sin(np.arange(1000)) * 10000).astype("<i2")
DATA = (b"data", 2 * PCM.size, PCM.tobytes())


@contextlib.contextmanager
def unprivileged():
    """Root may read anything: become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def message(path, **kwargs):
    """The one line that a bad file is refused with; the header check must agree if it raises."""
    with pytest.raises(InputError) as error:
        read_audio(path, RATE, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert "expected" in text
    return text


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".WAV", ".Flac"])
def test_lossless_round_trip(tmp_path, suffix):
    pcm = np.round(noise() * 32768) / 32768
    path = write(tmp_path / f"a{suffix}", pcm)
    np.testing.assert_allclose(read_audio(path, RATE), pcm, atol=1.1 / 32768)


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_round_trip(tmp_path, suffix):
    read = read_audio(write(tmp_path / f"a{suffix}", tone()), RATE)
    assert len(read) == RATE
    middle = slice(2000, -2000)
    assert np.corrcoef(read[middle], tone()[middle])[0, 1] > 0.99


def test_float_wav_keeps_values_beyond_full_scale(tmp_path):
    loud = noise() * 10
    write_audio(tmp_path / "a.wav", loud, RATE, "FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", RATE), loud)


def test_integer_wav_clips(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([0.0, 2.0, -2.0]), RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", None), [0, 1, -1], atol=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_integers_are_rounded_to_the_nearest_step(tmp_path, suffix, subtype, bits):
    """A multiple of the step comes back bit for bit, anything else to half a step."""
    steps = 2.0 ** (bits - 1)
    whole = np.random.default_rng(0).integers(-steps, steps, 5000) / steps
    whole[:4] = [-1, 1 - 1 / steps, 1 / steps, -1 / steps]
    write_audio(tmp_path / f"whole{suffix}", whole, RATE, subtype)
    np.testing.assert_array_equal(read_audio(tmp_path / f"whole{suffix}", None), whole)
    between = np.random.default_rng(1).uniform(-1e-3, 1e-3, 5000)
    write_audio(tmp_path / f"between{suffix}", between, RATE, subtype)
    error = read_audio(tmp_path / f"between{suffix}", None) - between
    assert np.abs(error).max() <= 0.501 / steps
    write_audio(tmp_path / f"loud{suffix}", np.array([2.0, -2.0]), RATE, subtype)
    read = read_audio(tmp_path / f"loud{suffix}", None)
    np.testing.assert_array_equal(read, [1 - 1 / steps, -1])


def test_float_wav_keeps_every_bit(tmp_path):
    waveform = np.array([1e-30, 1 + 2**-23, -3.7, 1 / 3], np.float32)
    write_audio(tmp_path / "a.wav", waveform, RATE, "FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", None), waveform)


def test_wav_beyond_its_32_bit_sizes_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr("sepssl.audio.files._WAV_BYTES", 2 * RATE)  # writing 4 GiB takes a minute
    pcm = np.round(noise() * 32768) / 32768
    for name, waveform, head in [("a", pcm, b"RIFF"), ("b", np.append(pcm, 0.5), b"RF64")]:
        write_audio(tmp_path / f"{name}.wav", waveform, RATE)
        assert (tmp_path / f"{name}.wav").read_bytes()[:4] == head
        np.testing.assert_array_equal(read_audio(tmp_path / f"{name}.wav", None), waveform)


def test_mono_is_the_mean_of_the_channels(tmp_path):
    channels = noise(channels=3)
    write_audio(tmp_path / "a.wav", channels, RATE, "FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", None), channels.mean(0), atol=1e-7)


def test_info(tmp_path):
    info = audio_info(write(tmp_path / "a.flac", noise(0.5, 44100, channels=2), 44100))
    assert (info.sample_rate, info.channels, info.frames, info.duration) == (44100, 2, 22050, 0.5)


@pytest.mark.parametrize("suffix", ALL)
def test_excerpt_is_the_slice_of_the_whole(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", noise(2.0))
    rate = audio_info(path).sample_rate
    whole = read_audio(path, None)
    excerpt = read_audio(path, None, offset=0.25, duration=0.5)
    # mpg123 starts its decoder anew after a seek: equal to the last bit of float32 only.
    tolerance = 2e-7 if suffix == ".mp3" else 0
    np.testing.assert_allclose(excerpt, whole[rate // 4 : rate // 4 * 3], rtol=0, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 7999), length=st.integers(1, 12000))
def test_excerpt_is_the_slice_for_any_bounds(tmp_path_factory, start, length):
    path = tmp_path_factory.getbasetemp() / "excerpt.wav"
    if not path.exists():
        write(path, noise(0.5))
    whole = read_audio(path, RATE)
    excerpt = read_audio(path, RATE, start / RATE, length / RATE)
    np.testing.assert_array_equal(excerpt, whole[start : start + length])


@pytest.mark.parametrize(
    ("file_rate", "rate"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 22050)]
)
def test_excerpt_is_the_slice_when_resampled(tmp_path, file_rate, rate):
    path = tmp_path / "a.wav"
    write_audio(path, noise(3.0, file_rate), file_rate, "FLOAT")
    whole = read_audio(path, rate)
    for offset, duration in [(0.0, 0.5), (1.23457, 0.975), (2.5, 9.0)]:
        first = round(offset * rate)
        excerpt = read_audio(path, rate, offset, duration)
        expected = whole[first : first + round(duration * rate)]
        assert len(excerpt) == len(expected)
        np.testing.assert_allclose(excerpt, expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20000), st.sampled_from([8000, 11025, 22050, 32000, 44100, 48000, 96000]))
def test_resampled_length_is_that_of_soxr(frames, rate):
    resampled = soxr.resample(np.zeros(frames, np.float32), rate, RATE, "HQ")
    assert resampled_length(frames, rate, RATE) == len(resampled)


def test_resampling_keeps_a_tone_and_removes_what_would_alias(tmp_path):
    low, high = tone(rate=44100), tone(rate=44100, hertz=10000.0)
    write_audio(tmp_path / "low.wav", low, 44100, "FLOAT")
    write_audio(tmp_path / "both.wav", low + high, 44100, "FLOAT")
    middle = slice(1000, -1000)
    kept = read_audio(tmp_path / "low.wav", RATE)
    np.testing.assert_allclose(kept[middle], tone()[middle], atol=1e-4)
    both = read_audio(tmp_path / "both.wav", RATE)
    np.testing.assert_allclose(both[middle], kept[middle], atol=1e-4)


def test_missing_folder_suffix_empty_and_garbage(tmp_path):
    assert "does not exist" in message(tmp_path / "none.wav")
    (tmp_path / "d.wav").mkdir()
    assert "is a folder" in message(tmp_path / "d.wav")
    assert "not a possible file name" in message(tmp_path / "zero\0byte.wav")
    (tmp_path / "a.txt").write_text("hello")
    assert "suffix '.txt'" in message(tmp_path / "a.txt")
    (tmp_path / "e.wav").touch()
    assert "empty (0 bytes)" in message(tmp_path / "e.wav")
    for suffix in ALL:
        path = tmp_path / f"garbage{suffix}"
        path.write_bytes(b"this is no sound at all, only text " * 100)
        assert f"{path}: is not readable as sound" in message(path)


def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in message(tmp_path / "pipe.wav")


def test_no_permission(tmp_path):
    path = write(tmp_path / "a.wav")
    path.chmod(0)
    with unprivileged():
        assert "permission denied" in message(path)


@pytest.mark.parametrize(
    "name", ["line\nbreak.wav", "umlaut ü.wav", b"latin-\xfc.wav", "red \x1b[31m.wav", "\u2028.wav"]
)
def test_awkward_names(tmp_path, name):
    path = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name))))
    assert message(path).isprintable()
    write(path)
    assert len(read_audio(path, RATE)) == RATE


def test_no_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert "holds no sample" in message(tmp_path / "a.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(tmp_path, bad):
    waveform = noise()
    waveform[100] = bad
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    assert "NaN or infinity" in message(tmp_path / "a.wav")
    assert len(read_audio(tmp_path / "a.wav", RATE, offset=0.5)) == RATE // 2


def test_silence(tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.zeros(RATE), RATE)
    assert "silent (every sample is 0)" in message(tmp_path / "zero.wav")
    soundfile.write(tmp_path / "faint.wav", np.full(RATE, 0.9e-6), RATE, subtype="FLOAT")
    assert "silent (peak -121 dBFS)" in message(tmp_path / "faint.wav")
    soundfile.write(tmp_path / "quiet.wav", np.full(RATE, 1.1e-6), RATE, subtype="FLOAT")
    assert len(read_audio(tmp_path / "quiet.wav", RATE)) == RATE
    stereo = np.stack([tone(), -tone()])
    write_audio(tmp_path / "opposed.wav", stereo, RATE, "FLOAT")
    assert "2 channels averaged" in message(tmp_path / "opposed.wav")


def test_silent_excerpt_is_fine(tmp_path):
    path = write(tmp_path / "a.wav", np.concatenate([tone(), np.zeros(RATE, np.float32)]))
    assert not read_audio(path, RATE, offset=1.0).any()


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated(tmp_path, suffix, share):
    whole = write(tmp_path / f"whole{suffix}", noise(3.0)).read_bytes()
    check_audio(tmp_path / f"whole{suffix}")
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in message(path)
    # An excerpt from the part that is left is refused as well: the scan of a folder is.
    assert "truncated" in message(path, duration=0.05)
    with pytest.raises(InputError, match="truncated"):
        check_audio(path)


def test_a_file_played_at_another_speed(tmp_path):
    """As a file of the same samples whose header gives the rate that it is played at."""
    waveform = noise(0.2, 384000)
    fast, slow = tmp_path / "fast.wav", tmp_path / "slow.wav"
    soundfile.write(fast, waveform, 384000, "FLOAT")
    soundfile.write(slow, waveform, 38400, "FLOAT")
    np.testing.assert_array_equal(read_audio(fast, RATE, speed=0.1), read_audio(slow, RATE))
    np.testing.assert_array_equal(read_audio(fast, None, speed=0.1), waveform)
    part = read_audio(fast, RATE, 0.05, 0.03, speed=0.1)
    np.testing.assert_array_equal(part, read_audio(slow, RATE, 0.5, 0.3))
    assert len(part) == 4800
    with pytest.raises(
        InputError, match=r"384000 Hz at 0\.0123457 times the speed are 4740\.7488 Hz"
    ):
        read_audio(fast, RATE, speed=0.0123457)
    with pytest.raises(InputError, match="are 384 Hz; expected"):
        read_audio(fast, RATE, speed=0.001)


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_what_there_is_of_a_truncated_file(tmp_path, suffix, share):
    path, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    write(path, noise(3.0))
    whole, data = read_audio(path, None), path.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    left, info = read_audio(cut, None, allow_truncated=True), audio_info(cut, allow_truncated=True)
    np.testing.assert_allclose(left, whole[: len(left)], rtol=0, atol=3e-7)
    assert (info.truncated, info.frames) == (True, len(left))
    ogg = suffix in (".ogg", ".opus")
    assert info.promised == (None if ogg else len(whole))
    # A page of Ogg, or a frame of the others, may be lost.
    assert share * len(whole) - (24000 if ogg else 4800) < len(left) < (share + 0.05) * len(whole)
    np.testing.assert_array_equal(
        np.concatenate(list(read_blocks(cut, allow_truncated=True))), left
    )
    part = read_audio(cut, None, 0.25, 0.25, allow_truncated=True)
    np.testing.assert_allclose(part, left[round(0.25 * RATE) : round(0.5 * RATE)], atol=3e-7)
    whole_info = audio_info(path, allow_truncated=True)
    assert (whole_info.truncated, whole_info.promised) == (False, None)


@pytest.mark.parametrize(
    ("subtype", "block", "bytes_in_block"),
    [("PCM_24", 1, 3), ("FLOAT", 1, 4), ("ULAW", 1, 1), ("GSM610", 320, 65)],
)
def test_what_there_is_of_a_truncated_wav(tmp_path, subtype, block, bytes_in_block):
    """Whole blocks only: half of one decodes to noise."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(2.0), 8000, subtype)
    whole, data = read_audio(path, None), path.read_bytes()
    start = data.index(b"data") + 8
    for blocks, rest in ((20, 0), (20, bytes_in_block - 1), (1, 0)):
        path.write_bytes(data[: start + blocks * bytes_in_block + rest])
        left = read_audio(path, None, allow_truncated=True)
        np.testing.assert_array_equal(left, whole[: blocks * block])
        assert audio_info(path, allow_truncated=True).promised == len(whole)
    path.write_bytes(data[:start])
    with pytest.raises(InputError, match=r"holds no sample|is truncated"):
        read_audio(path, None, allow_truncated=True)


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_ogg_cut_between_two_pages(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", noise(3.0))
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"OggS")])
    assert "lacks the end-of-stream flag" in message(path)


def test_chain_of_ogg_streams(tmp_path):
    """libsndfile would return the first stream and keep silent about the rest."""
    first, second = (write(tmp_path / f"{i}.ogg", noise(seed=i)).read_bytes() for i in (1, 2))
    (tmp_path / "chain.ogg").write_bytes(first + second)
    assert "several Ogg streams" in message(tmp_path / "chain.ogg")


def test_one_missing_sample_is_truncation(tmp_path):
    path = write(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:-2])
    assert "promises 32000 bytes of sound, 31998 are there" in message(path)


def test_truncated_rf64(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(), RATE, format="RF64")
    path = tmp_path / "a.wav"
    assert len(read_audio(path, RATE)) == RATE
    data = path.read_bytes()
    # libsndfile's RF64 as ffmpeg and EBU write it: the 32-bit size is 2^32-1, ds64 holds it.
    at = data.index(b"data") + 4
    data = data[:at] + b"\xff" * 4 + data[at + 4 :]
    path.write_bytes(data)
    assert len(read_audio(path, RATE)) == RATE
    path.write_bytes(data[:-1000])
    assert "truncated" in message(path)


def test_flac_damaged_in_the_middle(tmp_path):
    path = write(tmp_path / "a.flac", noise(3.0))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = bytes(5000)
    path.write_bytes(data)
    assert "damaged" in message(path)


@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFEFFC, 0x80000000], ids=lambda size: f"{size:#x}"
)
def test_wav_of_unknown_size_is_not_truncated(tmp_path, size):
    """As sox, ffmpeg, espeak-ng and arecord leave it when they write to a pipe."""
    (tmp_path / "a.wav").write_bytes(wav(FMT, (b"data", size, PCM.tobytes())))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", None), PCM / np.float32(32768))
    assert audio_info(tmp_path / "a.wav").frames == PCM.size


@pytest.mark.parametrize(
    "chunks",
    [
        [FMT, (b"LIST", 26, b"INFOISFT\x0e\0\0\0Lavf59.27.100\0"), DATA],
        [(b"LIST", 6, b"INFOxy"), FMT, DATA],
        [FMT, (b"LIST", 5, b"INFOx\0"), DATA],  # odd size, padded as the standard says
        [FMT, (b"LIST", 5, b"INFOx"), DATA],  # odd size, not padded
        [(b"bext", 7, b"abcdefg"), FMT, DATA],
        [(b"JUNK", 28, bytes(28)), FMT, DATA],
        [FMT, DATA, (b"LIST", 5, b"INFOx")],
        [FMT, DATA, (b"id3 ", 400, b"cut")],  # metadata cut after the sound: nothing is lost
        [FMT, (b"data", 0, PCM.tobytes()[: 2 * PCM.size])],
    ],
    ids=["list", "list-first", "padded", "unpadded", "bext", "junk", "late", "cut-tag", "zero"],
)
def test_wav_with_odd_chunks(tmp_path, chunks):
    (tmp_path / "a.wav").write_bytes(wav(*chunks))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", None), PCM / np.float32(32768))


def test_wav_of_size_zero_with_further_chunks_is_empty(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(FMT, (b"data", 0, b""), (b"LIST", 4, b"INFO")))
    assert "holds no sample" in message(tmp_path / "a.wav")


def mp3_without_length_header(path, bit_rate_mode, waveform, rate=RATE):
    with soundfile.SoundFile(
        path, "w", rate, 1, "MPEG_LAYER_III", compression_level=0.5, bitrate_mode=bit_rate_mode
    ) as file:
        file.write(waveform)
    data = path.read_bytes()
    assert b"Xing" in data[:200] or b"Info" in data[:200]
    path.write_bytes(data[data.index(data[:2], 4) :])  # the tag is a frame of its own: drop it
    return path


def test_mp3_without_length_header(tmp_path):
    path = mp3_without_length_header(tmp_path / "a.mp3", "CONSTANT", tone(3.0, 44100), 44100)
    with_tag = tmp_path / "tag.mp3"  # an ID3 tag of 20000 bytes: 7-bit bytes, 156 * 128 + 32
    with_tag.write_bytes(b"ID3\x04\0\0\0\x01\x1c\x20" + bytes(20000) + path.read_bytes())
    for file in [path, with_tag]:
        read = read_audio(file, None)
        info = audio_info(file)
        assert len(read) == info.frames
        assert info.frames % 1152 == 0
        assert 3 * 44100 <= info.frames < 3 * 44100 + 3 * 1152
    assert soundfile.info(path).frames != audio_info(path).frames  # libsndfile's guess


def test_mp3_of_variable_rate_without_length_header(tmp_path):
    # Silence first: the bit rate of the first frame says nothing about the rest.
    waveform = np.concatenate([noise(0.1), np.zeros(5 * RATE, np.float32), noise(0.5)])
    path = mp3_without_length_header(tmp_path / "a.mp3", "VARIABLE", waveform)
    assert "variable bit rate without a length header" in message(path)


@pytest.mark.parametrize("rate", [0, -16000, 0.5, float("nan"), float("inf")])
def test_bad_sample_rate(tmp_path, rate):
    path = write(tmp_path / "a.wav")
    with pytest.raises(InputError, match="sample_rate"):
        read_audio(path, rate)
    with pytest.raises(InputError, match="sample_rate"):
        write_audio(tmp_path / "b.wav", noise(), rate)


def test_bad_excerpts(tmp_path):
    path = write(tmp_path / "a.wav")
    for offset, duration in [(-1.0, None), (float("nan"), None), (0.0, 0.0), (0.0, -1.0)]:
        with pytest.raises(InputError, match="expected"):
            read_audio(path, RATE, offset, duration)
    assert "no sample between 1 s and its end" in message(path, offset=1.0)
    assert "no sample between 5 s and 6 s" in message(path, offset=5.0, duration=1.0)
    assert "no sample between 1e+307 s" in message(path, offset=1e307)
    assert len(read_audio(path, RATE, 0.5, 1e307)) == RATE // 2


def test_write_refuses(tmp_path):
    path = tmp_path / "a.wav"
    for bad in [np.zeros((2, 3, 4)), np.zeros(0), np.zeros(4, np.int16), np.array([0.0, np.nan])]:
        with pytest.raises(InputError, match="waveform to write"):
            write_audio(path, bad, RATE)
    with pytest.raises(InputError, match="more channels"):
        write_audio(path, np.zeros((100, 2)), RATE)
    with pytest.raises(InputError, match="no subtype 'PCM_16'; expected one of"):
        write_audio(tmp_path / "a.ogg", noise(), RATE)
    with pytest.raises(InputError, match="suffix"):
        write_audio(tmp_path / "a.xyz", noise(), RATE)
    with pytest.raises(InputError, match="could not be written as OGG OPUS"):
        write_audio(tmp_path / "a.opus", noise(), 12345, "OPUS")
    assert not list(tmp_path.iterdir())


def test_write_does_not_overwrite_unless_told(tmp_path):
    path = write(tmp_path / "deep" / "er" / "a.wav", tone())
    with pytest.raises(InputError, match="exists already"):
        write(path, noise())
    write(path, noise(0.5), overwrite=True)
    assert audio_info(path).frames == RATE // 2
    assert [p.name for p in path.parent.iterdir()] == ["a.wav"]


OTHER_FORMATS = {
    ".wave": ("WAV", "PCM_16"),
    ".bwf": ("WAV", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".snd": ("AU", "PCM_16"),
    ".aifc": ("AIFF", "PCM_16"),
    ".sph": ("NIST", "PCM_16"),
    ".nist": ("NIST", "PCM_16"),
    ".oga": ("OGG", "VORBIS"),
}


@pytest.mark.parametrize("suffix", OTHER_FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_libsndfile_reads_is_read_and_known_to_be_whole(tmp_path, suffix, channels):
    file_format, subtype = OTHER_FORMATS[suffix]
    path, bare = tmp_path / f"a{suffix}", tmp_path / "bare"
    pcm = np.round(noise(channels=channels) * 32768) / 32768
    soundfile.write(path, pcm.T, RATE, subtype, format=file_format)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    np.testing.assert_array_equal(read_audio(path, None), expected)
    assert suffix in files.SUFFIXES
    data = path.read_bytes()
    bare.write_bytes(data)  # known by its first bytes
    np.testing.assert_array_equal(read_audio(bare, None), expected)
    for share in [0.5, 0.98]:
        path.write_bytes(data[: int(len(data) * share)])
        assert "truncated" in message(path)


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "G721_32"])
def test_speech_codecs_in_wav(tmp_path, subtype):
    """soundfile cannot seek in some of them, and does not read such a file without a length."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate=8000), 8000, subtype)
    whole = read_audio(path, None)
    assert np.corrcoef(whole[:8000], tone(rate=8000))[0, 1] > 0.99
    np.testing.assert_array_equal(read_audio(path, None, 0.25, 0.5), whole[2000:6000])
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path))), whole)
    path.write_bytes(path.read_bytes()[:-2])
    assert "truncated" in message(path)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".ogg", ".w64", ".au"])
def test_id3_tag_before_a_container_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, noise(), RATE)
    expected, data = read_audio(path, None), path.read_bytes()
    tag = b"ID3\4\0\0\0\0\0\x13" + b"COMM" + bytes(15)  # of 19 bytes
    path.write_bytes(tag + data)
    np.testing.assert_array_equal(read_audio(path, None), expected)
    path.write_bytes(tag + data[: len(data) // 2])
    assert "truncated" in message(path)


def test_memory_that_runs_out_is_the_files_fault(tmp_path):
    """In a child, since only a limit on all of a process's memory makes it run out."""
    path = tmp_path / "a.wav"
    with open(path, "wb") as file:
        file.write(wav(FMT, (b"data", 80 * 2**20, b"")))
        file.truncate(81 * 2**20)  # zeros that take no room on the disk
    code = f"""
import resource
from sepssl.audio.files import read_audio
from sepssl.errors import InputError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, resource.RLIM_INFINITY))
try:
    read_audio({str(path)!r}, None, allow_silence=True)
except InputError as error:
    print(error)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "does not fit into memory; expected a shorter recording" in child.stdout, child.stderr


def test_suffixes_of_sound_that_is_not_read(tmp_path):
    for suffix in [".m4a", ".wma", ".webm", ".aac", ".wv", ".ape"]:
        assert suffix in files.UNREAD_SUFFIXES
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
        assert f"{suffix} files are not read" in message(path)
    assert not set(files.SUFFIXES) & set(files.UNREAD_SUFFIXES)


def mpeg_layer_2(frames):
    """Silence: 192 kbit/s at 48 kHz, 576 bytes and 1152 samples a frame, no bit allocated."""
    return (b"\xff\xfd\xa4\xc4" + bytes(572)) * frames


def test_mpeg_layer_2(tmp_path):
    path = tmp_path / "a.mp2"
    path.write_bytes(mpeg_layer_2(50))
    info = audio_info(path)
    assert (info.sample_rate, info.channels, info.frames) == (48000, 1, 50 * 1152)
    assert not read_audio(path, None, allow_silence=True).any()


def test_a_long_mp3_without_length_header_is_not_read_into_memory(tmp_path):
    path = tmp_path / "a.mp2"
    path.write_bytes(mpeg_layer_2(10000))
    tracemalloc.start()
    assert audio_info(path).frames == 10000 * 1152
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def mend_checksum(data, page):
    """Of the Ogg page at this position."""
    segments = data[page + 26]
    end = page + 27 + segments + sum(data[page + 27 : page + 27 + segments])
    data[page + 22 : page + 26] = bytes(4)
    checksum = 0
    for byte in data[page:end]:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x104C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    data[page + 22 : page + 26] = struct.pack("<I", checksum)


def ogg_with_length(path, granule):
    """Rewrites the end position in the last page of an Ogg file."""
    data = bytearray(path.read_bytes())
    page = data.rindex(b"OggS")
    data[page + 6 : page + 14] = struct.pack("<Q", granule)
    mend_checksum(data, page)
    path.write_bytes(data)


def test_vorbis_of_which_nothing_can_be_decoded(tmp_path):
    """libsndfile crashes when it seeks in such a stream, which would end the child."""
    path = write(tmp_path / "a.ogg")
    good = path.read_bytes()
    setup = good.index(b"\x05vorbis")
    for at in range(setup + 500, setup + 900, 20):  # in the code books
        data = bytearray(good)
        data[at] ^= 16
        mend_checksum(data, data.index(b"OggS", 1))
        (tmp_path / f"{at}.ogg").write_bytes(data)
    code = """
import pathlib, sys
from sepssl.audio.files import read_audio
from sepssl.errors import InputError
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        read_audio(path, None, 0.3, 0.1)
    except InputError as error:
        print(error)
"""
    child = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert child.returncode == 0
    assert "nothing can be decoded" in child.stdout


def test_other_formats_are_not_tried_behind_an_id3_tag(tmp_path):
    """libsndfile would, and can hang in the damaged ones."""
    soundfile.write(tmp_path / "a.bin", noise(), RATE, format="SVX", subtype="PCM_16")
    data = b"ID3\4\0\0\0\0\0\0" + (tmp_path / "a.bin").read_bytes()
    for name in ["a.mp3", "a.wav"]:
        (tmp_path / name).write_bytes(data)
        assert "no known format" in message(tmp_path / name)


def test_mp3_behind_the_rest_of_something_else(tmp_path):
    path = write(tmp_path / "a.mp3")
    expected = read_audio(path, None)
    rest = b"no frame, only text" * 100
    path.write_bytes(rest + path.read_bytes())
    np.testing.assert_array_equal(read_audio(path, None), expected)


def test_memory_does_not_depend_on_what_a_header_claims(tmp_path):
    path = write(tmp_path / "a.ogg")
    ogg_with_length(path, 2**29)  # 9 hours
    assert audio_info(path).frames == 2**29
    tracemalloc.start()
    assert "is truncated or damaged: its header promises 536870912" in message(path)
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()
    ogg_with_length(path, 2**45)
    assert "expected at most 1073741824 at once" in message(path)
    (tmp_path / "f.wav").write_bytes(wav((b"fmt ", 2**24, b""), DATA) + bytes(2**24))
    tracemalloc.start()
    message(tmp_path / "f.wav")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_zeros_behind_a_wav_header_are_not_walked_through(tmp_path):
    with open(tmp_path / "a.wav", "wb") as file:
        file.write(wav(FMT))
        file.truncate(2**26)  # 8 million chunks without a name or a size
    start = time.process_time()
    message(tmp_path / "a.wav")
    assert time.process_time() - start < 2


def test_a_wav_without_padding_is_not_copied_into_memory(tmp_path):
    pcm = np.tile(PCM, 2000)
    chunks = [FMT, (b"LIST", 5, b"INFOx"), (b"data", 2 * pcm.size, pcm.tobytes())]
    (tmp_path / "a.wav").write_bytes(wav(*chunks))
    tracemalloc.start()
    excerpt = read_audio(tmp_path / "a.wav", None, offset=100, duration=0.1)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    np.testing.assert_array_equal(excerpt, pcm[100 * RATE : 100 * RATE + 1600] / np.float32(32768))


def test_whatever_a_decoder_raises_is_the_files_fault(tmp_path):
    """An MP3 whose length shrinks while it is read: soundfile asked for a negative number."""
    path = tmp_path / "a.mp3"
    with soundfile.SoundFile(
        path, "w", RATE, 1, "MPEG_LAYER_III", compression_level=0.5, bitrate_mode="VARIABLE"
    ) as file:
        file.write(noise(3.0))
    data = path.read_bytes()
    for seed in range(12):
        junk = np.random.default_rng(seed).integers(0, 256, 3000, np.uint8).tobytes()
        path.write_bytes(data[:6000] + junk + data[6000:])
        assert "truncated or damaged" in message(path)


def wav_of_rate(path, rate, frames=40000):
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate, 1, 8)
    samples = np.random.default_rng(0).integers(0, 256, frames, np.uint8).tobytes()
    path.write_bytes(wav((b"fmt ", 16, fmt), (b"data", frames, samples)))
    return path


@pytest.mark.parametrize("rate", [1, 100, 999, 10_000_001, 2**31 - 1])
def test_a_header_with_an_absurd_rate(tmp_path, rate):
    """40 kB at 1 Hz would be 11 hours: 2.2 GB and a minute of resampling."""
    path = wav_of_rate(tmp_path / "a.wav", rate)
    assert f"{rate} Hz; expected a sample rate from 1000 to 10000000 Hz" in message(path)


def test_resampling_is_bounded_before_anything_is_decoded(tmp_path):
    path = wav_of_rate(tmp_path / "a.wav", 1000)
    assert len(read_audio(path, 100_000)) == 100 * 40000
    with pytest.raises(InputError, match="expected at least 1/100 of the 100001 Hz"):
        read_audio(path, 100_001)
    long = wav_of_rate(tmp_path / "b.wav", 1000, 12_000_000)
    start = time.process_time()
    with pytest.raises(InputError, match="is 1200000000 samples long at 100000 Hz"):
        read_audio(long, 100_000)
    assert time.process_time() - start < 1
    assert len(read_audio(long, 100_000, duration=1.0)) == 100_000


@pytest.mark.parametrize("value", [3e38, -3e38, 1001.0, -32768.0])
def test_absurd_finite_samples(tmp_path, value):
    waveform = noise(channels=2)
    waveform[1, 100] = value
    soundfile.write(tmp_path / "a.wav", waveform.T, RATE, subtype="FLOAT")
    assert "expected full scale at 1, and nothing beyond 1000" in message(tmp_path / "a.wav")
    with pytest.raises(InputError, match="nothing beyond 1000"):
        list(read_blocks(tmp_path / "a.wav"))


def test_float64_beyond_float32_is_infinite(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.1, 1e300, 0.1]), RATE, subtype="DOUBLE")
    assert "NaN or infinity" in message(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("bits", "align"), [(7, 1), (7, 2), (16, 1), (16, 4), (24, 4), (8, 2)], ids=str
)
def test_headers_that_contradict_themselves(tmp_path, bits, align):
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, align * RATE, align, bits)
    (tmp_path / "a.wav").write_bytes(wav((b"fmt ", 16, fmt), DATA))
    assert "contradicts itself" in message(tmp_path / "a.wav")


def ultrasound(seconds=1.0, rate=384000):
    """A sweep from 40 to 80 kHz that starts and ends at once."""
    t = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * (40000 * t + 20000 * t * t / seconds))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_nothing_is_left_after_resampling(tmp_path, subtype):
    path = tmp_path / "bat.wav"
    write_audio(path, ultrasound(), 384000, subtype)
    assert "holds nothing below 8000 Hz" in message(path)
    assert len(read_audio(path, RATE, allow_silence=True)) == RATE
    assert len(read_audio(path, RATE, duration=0.5)) == RATE // 2  # like a silent excerpt
    assert len(read_audio(path, 192000)) == 192000
    low = 1e-3 * np.sin(2 * np.pi * 1000 * np.arange(384000) / 384000)
    write_audio(tmp_path / "both.wav", ultrasound() + low, 384000, subtype)
    assert len(read_audio(tmp_path / "both.wav", RATE)) == RATE


def test_a_quiet_recording_is_not_lost_in_resampling(tmp_path):
    soundfile.write(tmp_path / "a.wav", 10 ** (-103 / 20) * tone(rate=48000), 48000, "FLOAT")
    assert np.abs(read_audio(tmp_path / "a.wav", RATE)).max() > 3e-6


def test_remarks_of_libmpg123_stay_off_the_terminal(tmp_path, capfd):
    frame = b"COMM" + struct.pack(">IH", 4, 0) + b"\0eng"
    path = write(tmp_path / "a.mp3")
    plain = read_audio(path, None)
    path.write_bytes(b"ID3\3\0\0\0\0\0" + bytes([len(frame)]) + frame + path.read_bytes())
    np.testing.assert_array_equal(read_audio(path, None), plain)
    path.write_bytes(path.read_bytes() + b"APETAGEX" + bytes(500))
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path))), plain)
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"


def test_blocks_are_the_whole(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(10.0, channels=8).T, RATE)
    blocks = list(read_blocks(path))
    assert [len(block) for block in blocks] == [65536, 65536, 28928]
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path, None))
