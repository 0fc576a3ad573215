import numpy as np
import pytest
import soundfile
import tensorflow as tf

from sepssl.audio.files import check_decoder, read_audio
from sepssl.audio.in_graph import decode_audio
from sepssl.errors import InputError

RATE = 16000
WITH_TENSORFLOW_IO = tf.__version__.startswith("2.17.")
TFIO = [
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
]
needs_tensorflow_io = pytest.mark.skipif(
    not WITH_TENSORFLOW_IO, reason="tensorflow-io loads with TensorFlow 2.17 only"
)


def sound_file(folder, suffix, subtype, channels=1, level=1.0):
    t = np.arange(8000) / RATE
    sound = np.stack([0.3 * np.sin(2000 * t), 0.2 * np.cos(3000 * t)], axis=1)[:, :channels]
    path = folder / f"a.{suffix}"
    soundfile.write(path, level * sound, RATE, subtype=subtype)
    return path


def require_equal(path, decoder):
    """To less than half a step of 16 bits: whole, in part, and resampled."""
    for kwargs in [{}, {"offset": 0.1, "duration": 0.2}]:
        for rate in [None, 8000]:
            found = read_audio(path, rate, decoder=decoder, **kwargs)
            expected = read_audio(path, rate, **kwargs)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=2**-17)


@pytest.mark.parametrize("channels", [1, 2])
def test_tensorflow_equals_soundfile(channels, tmp_path):
    require_equal(sound_file(tmp_path, "wav", "PCM_16", channels), "tensorflow")


@needs_tensorflow_io
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("suffix", "subtype"), TFIO)
def test_tensorflow_io_equals_soundfile(suffix, subtype, channels, tmp_path):
    require_equal(sound_file(tmp_path, suffix, subtype, channels), "tfio")


@pytest.mark.parametrize("decoder", ["tensorflow", "tfio"])
def test_in_a_graph(decoder, tmp_path):
    if decoder == "tfio" and not WITH_TENSORFLOW_IO:
        pytest.skip("tensorflow-io loads with TensorFlow 2.17 only")
    path = sound_file(tmp_path, "wav", "PCM_16", 2)
    files = tf.data.Dataset.from_tensors(tf.constant(path.read_bytes()))
    (found,) = files.map(lambda contents: decode_audio(contents, "WAV", "PCM_16", decoder))
    np.testing.assert_allclose(found, read_audio(path, None), rtol=0, atol=1e-7)


@pytest.mark.parametrize("decoder", ["tensorflow", "tfio"])
def test_the_same_files_are_refused(decoder, tmp_path):
    if decoder == "tfio" and not WITH_TENSORFLOW_IO:
        pytest.skip("tensorflow-io loads with TensorFlow 2.17 only")
    path = sound_file(tmp_path, "wav", "PCM_16", level=0.0)
    with pytest.raises(InputError, match="silent"):
        read_audio(path, RATE, decoder=decoder)
    assert not read_audio(path, RATE, decoder=decoder, allow_silence=True).any()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated"):
        read_audio(path, RATE, decoder=decoder)
    path = sound_file(tmp_path, "w64", "PCM_16")
    with pytest.raises(InputError, match=r"does not read W64 .*; expected decoder='soundfile'"):
        read_audio(path, RATE, decoder=decoder)
    if decoder == "tfio":
        path = sound_file(tmp_path, "wav", "FLOAT", level=1e30)
        with pytest.raises(InputError, match="nothing beyond 1000"):
            read_audio(path, RATE, decoder=decoder)


def test_tensorflow_reads_16_bits_only(tmp_path):
    path = sound_file(tmp_path, "wav", "PCM_24")
    with pytest.raises(InputError, match="'tensorflow' does not read WAV of PCM_24"):
        read_audio(path, RATE, decoder="tensorflow")
    soundfile.write(path, np.full(8000, 0.5), RATE, "PCM_16", endian="BIG")  # RIFX
    assert len(read_audio(path, RATE)) == 8000
    with pytest.raises(InputError, match="cannot be decoded by tensorflow"):
        read_audio(path, RATE, decoder="tensorflow")


def test_an_unknown_decoder_or_one_that_does_not_load_is_refused(tmp_path):
    with pytest.raises(InputError, match="decoder is 'ffmpeg'; expected one of soundfile, tfio"):
        read_audio(sound_file(tmp_path, "wav", "PCM_16"), RATE, decoder="ffmpeg")
    if WITH_TENSORFLOW_IO:
        check_decoder("tfio")
    else:
        with pytest.raises(InputError, match=r"decoder is 'tfio', but .*sepssl\[tfio\]"):
            check_decoder("tfio")
