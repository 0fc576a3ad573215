"""Random equalisation: every view as if through a microphone of its own.

A control: the channels of any separator, even an untrained one, have another spectral colour than
the mixture, which by itself makes it harder to recognise a pair by its colour.
"""

import numpy as np
from keras import ops

from sepssl.typing import Tensor

KNOTS = 6  # of the random curve, over the mel bands; our choice


def equalize(magnitude: Tensor, uniforms: Tensor, range_db: float) -> Tensor:
    """Multiplies the bands of a mel spectrogram by a random smooth curve, constant over time.

    The curve is linear in dB between `KNOTS` evenly spaced bands, where it is uniform from
    `-range_db` to `range_db`. For a response that is flat within a band this equals a filter.

    Args:
        magnitude: [batch, frames, bands].
        uniforms: [batch, KNOTS], in [0, 1).
        range_db: largest gain and attenuation.

    Returns:
        [batch, frames, bands].

    Reference: our choice.
    """
    knots_db = range_db * (2.0 * uniforms - 1.0)
    gain_db = ops.matmul(knots_db, _interpolation(magnitude.shape[-1]))
    return ops.expand_dims(10.0 ** (gain_db / 20.0), 1) * magnitude


def _interpolation(bands: int) -> np.ndarray:
    """[KNOTS, bands]: how much each knot weighs in each band."""
    places = np.linspace(0, KNOTS - 1, bands)
    return np.maximum(0.0, 1.0 - np.abs(places - np.arange(KNOTS)[:, None])).astype(np.float32)
