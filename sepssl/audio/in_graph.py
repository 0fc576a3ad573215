"""Sound files as TensorFlow's and tensorflow-io's decoders read them.

`decode_audio` runs no Python, so that map functions of tf.data scale over threads. All but WAV of
16 bits needs tensorflow-io, which loads with TensorFlow 2.17 only (extra `tfio`).
"""

import os
from types import ModuleType

import numpy as np
import tensorflow as tf

from sepssl.audio.decoding import Recording
from sepssl.errors import InputError

_TENSORFLOW = {("WAV", "PCM_16")}
_TFIO = {
    *_TENSORFLOW,
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_16"),
    ("WAVEX", "PCM_24"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
}


def decode_audio(
    contents: tf.Tensor, file_format: str, subtype: str, decoder: str = "tfio"
) -> tf.Tensor:
    """Decodes a whole sound file as mono (mean of the channels), at its own sample rate.

    Equals `read_audio(path, None)`, up to the rounding of lossy decoders.

    Args:
        contents: the file's bytes, a scalar string.
        file_format, subtype: container and encoding, as libsndfile names them; fixed when the
            graph is made.
        decoder: "tensorflow" (WAV of 16 bits) or "tfio" (also of 24 bits and float32, FLAC of 16
            and 24 bits, Ogg Vorbis and MP3).

    Returns:
        float32 [samples], full scale at -1 and 1.

    Raises:
        ImportError: if tensorflow-io is needed and cannot be loaded.
        ValueError: if the decoder does not read such files.
    """
    if (file_format, subtype) not in {"tensorflow": _TENSORFLOW, "tfio": _TFIO}[decoder]:
        raise ValueError(f"the decoder '{decoder}' does not read {file_format} of {subtype}")
    if decoder == "tensorflow":
        frames, _ = tf.audio.decode_wav(contents)
        return tf.reduce_mean(frames, axis=-1)
    audio = tensorflow_io().audio
    if subtype == "VORBIS":
        frames = audio.decode_vorbis(contents)
    elif subtype == "MPEG_LAYER_III":
        frames = audio.decode_mp3(contents)
    else:
        decode = audio.decode_flac if file_format == "FLAC" else audio.decode_wav
        dtype = {"PCM_16": tf.int16, "PCM_24": tf.int32, "FLOAT": tf.float32}[subtype]
        frames = decode(contents, dtype=dtype)
        if dtype.is_integer:
            frames = tf.cast(frames, tf.float32) / (2.0**15 if subtype == "PCM_16" else 2.0**31)
    return tf.reduce_mean(frames, axis=-1)


def decode_file(path: str | os.PathLike, recording: Recording, decoder: str) -> np.ndarray:
    """Decodes a file that is open and checked: float32 `[samples]`, all of the file.

    Args:
        path: the file.
        recording: the same file, open.
        decoder: as for `decode_audio`.

    Raises:
        InputError: if the decoder does not read the format, or fails.
    """
    try:
        with open(path, "rb") as file:
            contents = file.read()
        waveform = decode_audio(contents, recording.format, recording.info.subtype, decoder)
        return waveform.numpy()[: recording.info.frames]
    except OSError as error:
        raise InputError(f"{recording.name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{recording.name}: {error}; expected decoder='soundfile'") from error
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())
        raise InputError(
            f"{recording.name}: cannot be decoded by {decoder} ({reason}); expected a whole file, "
            "or decoder='soundfile'"
        ) from error


def tensorflow_io() -> ModuleType:
    """The module tensorflow_io.

    Raises:
        ImportError: if it is not installed, or does not load with this TensorFlow.
    """
    try:
        import tensorflow_io as module
    except ImportError as error:
        raise ImportError(
            "tensorflow-io is not installed: pip install 'sepssl[tfio]' (TensorFlow 2.17)"
        ) from error
    if not tf.__version__.startswith("2.17."):
        # It imports with later ones, and each decoder fails when it is used.
        raise ImportError(
            f"tensorflow-io does not load with TensorFlow {tf.__version__}: "
            "pip install 'sepssl[tfio]' (TensorFlow 2.17)"
        )
    return module
