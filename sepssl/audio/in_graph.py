"""Decoding inside a TensorFlow graph, for tf.data pipelines over encoded bytes.

`sepssl.audio.files` is the way to read files. This one is for records that hold encoded sound of a
known rate, as those of `sepssl.data.scenes.builder`: no Python runs, so that map functions scale
over threads. All but wav need tensorflow-io, which loads with TensorFlow 2.17 only (extra `tfio`).
"""

import tensorflow as tf


def decode_audio(contents: tf.Tensor, file_format: str) -> tf.Tensor:
    """Decodes a whole sound file as mono (mean of the channels), at its own sample rate.

    Equals `read_audio(path, None)`, up to the rounding of lossy decoders.

    Args:
        contents: the file's bytes, a scalar string.
        file_format: "wav" (16-bit PCM), "flac" (16 bit), "ogg" (Vorbis) or "mp3"; fixed when the
            graph is made.

    Returns:
        float32 [samples], full scale at -1 and 1.

    Raises:
        ImportError: if the format needs tensorflow-io and that cannot be loaded.
        ValueError: if the format is none of these.
    """
    if file_format == "wav":
        waveform, _ = tf.audio.decode_wav(contents)
    elif file_format == "flac":
        samples = _tensorflow_io().audio.decode_flac(contents, dtype=tf.int16)
        waveform = tf.cast(samples, tf.float32) / 32768.0
    elif file_format == "ogg":
        waveform = _tensorflow_io().audio.decode_vorbis(contents)
    elif file_format == "mp3":
        waveform = _tensorflow_io().audio.decode_mp3(contents)
    else:
        raise ValueError(f"file_format={file_format!r}: expected 'wav', 'flac', 'ogg' or 'mp3'")
    return tf.reduce_mean(waveform, axis=-1)


def _tensorflow_io():
    try:
        import tensorflow_io
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
    return tensorflow_io
