"""The fixed clips on which every export is compared with the model it was made from."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.representation.encoder import Encoder
from sepssl.separation.separator import Separator

# Larger samples are no audio on any scale (32-bit integers end at 2.1e9), and from about 1e17 on
# the squares in the spectrogram overflow float32.
LARGEST_SAMPLE = 1e10
# What a file may take, in formats with a file for each kind of input.
INPUTS = ("waveform", "patch", "log_mel")


def fixed_clips(sample_rate: int, patch: int, hop: int) -> dict[str, np.ndarray]:
    """Name -> waveform, float32 [batch, samples], the same in every call.

    Silence, noise, a sine, one sample, lengths around one patch, and samples that are not finite.

    Args:
        sample_rate: in Hz.
        patch: samples of a patch.
        hop: samples from one patch to the next.
    """
    random = np.random.default_rng(0)

    def noise(batch, samples):
        return random.uniform(-0.5, 0.5, [batch, samples])

    sine = 0.5 * np.sin(2 * np.pi * 440.0 / sample_rate * np.arange(patch + 2 * hop + 3))
    broken = noise(1, patch)
    broken[:, 100::1000] = np.nan
    broken[:, 200::1000] = np.inf
    broken[:, 300::1000] = -np.inf
    clips = {
        "silence": np.zeros([1, patch]),
        "noise": noise(3, patch + hop),
        "sine": sine[None],
        "one_sample": np.full([2, 1], 0.5),
        "short": noise(1, patch // 3),
        "patch_less_one": noise(1, patch - 1),
        "patch_and_one": noise(1, patch + 1),
        "not_finite": broken,
    }
    return {name: clip.astype(np.float32) for name, clip in clips.items()}


def encoder_clips(encoder: Encoder) -> dict[str, np.ndarray]:
    """`fixed_clips` around the length of an encoder's patch."""
    log_mel = encoder.log_mel
    return fixed_clips(encoder.sample_rate, log_mel.patch_samples, log_mel.patch_hop_samples)


def separator_clips(separator: Separator) -> dict[str, np.ndarray]:
    """`fixed_clips` of about a second."""
    rate = separator.sample_rate
    return fixed_clips(rate, rate, rate // 2)


def expected_outputs(
    model: Callable, clips: dict[str, np.ndarray], output: str
) -> dict[str, dict[str, np.ndarray]]:
    """Clip -> output -> array, by a Keras model, unusable samples zeroed.

    Args:
        model: (waveform, training) -> tensor, or dict of tensors.
        clips: name -> waveform.
        output: name of the output, where `model` gives a tensor.

    Raises:
        InputError: if an output is not finite, as happens when a weight is not.
    """
    expected = {}
    # On the CPU: convolutions on a GPU may round to 10 bits (TF32), which no comparison survives.
    with tf.device("CPU:0"):
        for name, clip in clips.items():
            usable = np.where(np.abs(clip) <= LARGEST_SAMPLE, clip, np.float32(0.0))
            found = model(usable, training=False)
            found = found if isinstance(found, dict) else {output: found}
            expected[name] = {key: np.asarray(value) for key, value in found.items()}
            for key, value in expected[name].items():
                if not np.all(np.isfinite(value)):
                    raise InputError(
                        f"the model's {key} of the clip '{name}' is not finite; "
                        "expected a model whose weights are all finite"
                    )
    return expected


def as_input(
    encoder: Encoder,
    name: str,
    clips: dict[str, np.ndarray],
    expected: dict[str, dict[str, np.ndarray]],
) -> tuple[dict, dict]:
    """Clips, and what is expected of them, as a file with the input `name` takes them.

    Args:
        encoder: `Encoder`.
        name: one of `INPUTS`; a file with another input than waveforms takes one patch.
        clips: name -> waveform.
        expected: clip -> output -> array, for input as waveforms.
    """
    if name == "waveform":
        return clips, expected
    waveforms = {clip: one_patch(encoder, waveform[0]) for clip, waveform in clips.items()}
    expected = expected_outputs(encoder, waveforms, "embedding")
    return {clip: input_of(encoder, name, x) for clip, x in waveforms.items()}, expected


def input_of(encoder: Encoder, name: str, waveforms: np.ndarray) -> np.ndarray:
    """Waveforms [batch, patch_samples] as a file with the input `name` takes them."""
    if name != "log_mel":
        return waveforms
    waveforms = np.where(np.abs(waveforms) <= LARGEST_SAMPLE, waveforms, np.float32(0))
    return np.asarray(encoder.log_mel(waveforms))[:, 0]


def one_patch(encoder: Encoder, waveform: np.ndarray) -> np.ndarray:
    """[samples] -> [1, patch_samples], cut or padded with zeros."""
    length = encoder.log_mel.patch_samples
    return np.pad(waveform[:length], (0, max(length - len(waveform), 0)))[None]


def require_some(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError unless `values` are one or more of `known`."""
    for value in values:
        if value not in known:
            raise InputError(f"{name} {value!r}: expected some of {', '.join(known)}")
    if not values:
        raise InputError(f"no {name}: expected some of {', '.join(known)}")
