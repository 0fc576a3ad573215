import io

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from sepssl.audio.files import read_audio
from sepssl.audio.in_graph import decode_audio

SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("file_format", SUBTYPES)
def test_equals_soundfile(file_format, channels, tmp_path):
    if file_format != "wav":
        pytest.importorskip("tensorflow_io")
    t = np.arange(8000) / 16000
    sound = np.stack([0.3 * np.sin(2000 * t), 0.2 * np.cos(3000 * t)], axis=1)[:, :channels]
    path = tmp_path / f"a.{file_format}"
    soundfile.write(path, sound, 16000, subtype=SUBTYPES[file_format])
    files = tf.data.Dataset.from_tensors(tf.constant(path.read_bytes()))
    (found,) = files.map(lambda contents: decode_audio(contents, file_format))
    np.testing.assert_allclose(found, read_audio(path, None), atol=1e-6)


def test_without_tensorflow_io_the_error_names_the_extra():
    try:
        import tensorflow_io  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"sepssl\[tfio\]"):
            decode_audio(tf.constant(io.BytesIO().getvalue()), "flac")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="file_format='aac'"):
        decode_audio(tf.constant(b""), "aac")
