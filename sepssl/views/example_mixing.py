"""Example mixing: another recording, softly in the background.

Reference: example mixing as in Fonseca et al. (2021), mix-back as in their earlier work; the
numbers, and mixing only one view of a pair, are our choice.
"""

from keras import ops

from sepssl.typing import Tensor


def mix_examples(
    views: Tensor, uniforms: Tensor, probability: float, min_gain_db: float, max_gain_db: float
) -> Tensor:
    """Adds a view of its neighbour in the batch to one view of a pair, with matched energy.

    Only to one: if it were in both, a pair could be recognised by it. Neighbours are examples 2 k
    and 2 k + 1, which are always on the same replica, so that the result does not depend on the
    number of replicas.

    Args:
        views: [batch, 2, samples], an even batch.
        uniforms: [batch, 3], in [0, 1): whether a pair is mixed, which of its views, at what level.
        probability: share of pairs that are mixed.
        min_gain_db, max_gain_db: range of the neighbour's level, in dB relative to the view's own.

    Returns:
        [batch, 2, samples].
    """
    energy = ops.mean(ops.square(views), axis=-1)
    gain = _gain(energy, uniforms, probability, min_gain_db, max_gain_db)
    return views + ops.expand_dims(gain, -1) * _neighbours(views)


def mix_spectrograms(
    magnitude: Tensor, uniforms: Tensor, probability: float, min_gain_db: float, max_gain_db: float
) -> Tensor:
    """The same in the mel spectrogram, where the powers of the two views add up.

    Args:
        magnitude: [batch, 2, frames, bands], an even batch.
        uniforms, probability, min_gain_db, max_gain_db: as in `mix_examples`.

    Returns:
        [batch, 2, frames, bands].
    """
    power = ops.square(magnitude)
    energy = ops.mean(power, axis=(2, 3))
    gain = _gain(energy, uniforms, probability, min_gain_db, max_gain_db)
    return ops.sqrt(power + ops.square(gain)[:, :, None, None] * _neighbours(power))


def _neighbours(views):
    shape = ops.shape(views)
    if isinstance(shape[0], int) and shape[0] % 2:
        raise ValueError(
            f"a batch of {shape[0]} pairs: expected an even number, since example mixing pairs up "
            "neighbours"
        )
    return ops.reshape(ops.flip(ops.reshape(views, (-1, 2, *shape[1:])), axis=1), shape)


def choose_mixing(
    uniforms: Tensor, probability: float, min_gain_db: float, max_gain_db: float
) -> tuple[Tensor, Tensor]:
    """Which views are mixed, and how loud their neighbours are.

    Args:
        uniforms, probability, min_gain_db, max_gain_db: as in `mix_examples`.

    Returns:
        bool [batch, 2], at most one True in a row, and the neighbour's level in dB, [batch, 1].
    """
    level = min_gain_db + (max_gain_db - min_gain_db) * uniforms[:, 2:]
    first = uniforms[:, 1:2] < 0.5
    return (uniforms[:, :1] < probability) & ops.concatenate([first, ~first], axis=1), level


def _gain(energy, uniforms, probability, min_gain_db, max_gain_db):
    """Energies [batch, 2] -> the factor of each view's neighbour, 0 if nothing is added."""
    mixed, level = choose_mixing(uniforms, probability, min_gain_db, max_gain_db)
    gain = ops.sqrt(energy / (_neighbours(energy) + 1e-10)) * 10.0 ** (level / 20.0)
    return ops.where(mixed, gain, ops.zeros_like(gain))
