"""Which sound a view shows: the mixture, or one of its separated channels."""

from keras import ops

PAIRINGS = ("mixture_mixture", "mixture_channel", "channel_channel")


def choose_channel(channels, mixture, uniform, floor_db: float = -30.0):
    """Picks one channel of every example, with equal chances for all that can be heard.

    Args:
        channels: [batch, sources, samples].
        mixture: [batch, samples], what they were separated from.
        uniform: [batch], in [0, 1): decides.
        floor_db: channels whose power lies further below that of the loudest one and of the
            mixture are passed over.

    Returns:
        Which channels: int32 [batch], -1 where none can be heard, as of true sources that are
        silent for a while.
    """
    # As products of vectors: squares would be written to memory and read again.
    power = ops.einsum("bcs,bcs->bc", channels, channels)
    loudest = ops.maximum(ops.max(power, axis=-1), ops.einsum("bs,bs->b", mixture, mixture))
    audible = ops.cast(power >= ops.expand_dims(loudest, -1) * 10.0 ** (floor_db / 10.0), "int32")
    count = ops.sum(audible, axis=-1)
    wanted = ops.cast(uniform * ops.cast(count, uniform.dtype), "int32")
    # uniform * count can round up to count.
    wanted = ops.expand_dims(ops.minimum(wanted, count - 1), -1)
    rank = ops.cumsum(audible, axis=-1) - 1
    number = ops.argmax(ops.cast((rank == wanted) & (audible > 0), "int32"), axis=-1)
    return ops.where(count > 0, ops.cast(number, "int32"), -1)


def choose_views(mixtures, channels, uniforms, probabilities, floor_db: float = -30.0):
    """Turns two patches of every recording into two views of the drawn kinds.

    Args:
        mixtures: [batch, 2, samples].
        channels: [batch, 2, sources, samples].
        uniforms: [batch, 4], in [0, 1): pairing, order of the views, channel of each view.
        probabilities: of `PAIRINGS`, adding up to 1.
        floor_db: see `choose_channel`.

    Returns:
        Views [batch, 2, samples], and which channel each shows, int32 [batch, 2], -1 for the
        mixture.
    """
    mixture_mixture, mixture_channel, _ = probabilities
    both_mixtures = uniforms[:, 0] < mixture_mixture
    both_channels = uniforms[:, 0] >= mixture_mixture + mixture_channel
    # In a mixed pair, either view can be the channel.
    first = uniforms[:, 1] < 0.5
    is_channel = ops.stack(
        [
            both_channels | (first & ~both_mixtures),
            both_channels | (~first & ~both_mixtures),
        ],
        axis=1,
    )
    # The views of all examples at once: slices of channels would be copies.
    *_, sources, samples = channels.shape
    number = choose_channel(
        ops.reshape(channels, (-1, sources, samples)),
        ops.reshape(mixtures, (-1, samples)),
        ops.reshape(uniforms[:, 2:4], (-1,)),
        floor_db,
    )
    rows = ops.arange(ops.shape(number)[0], dtype="int32") * sources + ops.maximum(number, 0)
    chosen = ops.take(ops.reshape(channels, (-1, samples)), rows, axis=0)
    shown = ops.where(is_channel, ops.reshape(number, ops.shape(is_channel)), -1)
    chosen = ops.reshape(chosen, ops.shape(mixtures))
    return ops.where(ops.expand_dims(shown >= 0, -1), chosen, mixtures), shown


def pairing_shares(shown) -> dict:
    """Shares of the pairs that are of each of `PAIRINGS`, scalars, by "<pairing>_share".

    Args:
        shown: int [batch, 2], which channel each view shows, -1 for the mixture.
    """
    count = ops.sum(ops.cast(shown >= 0, "int32"), axis=1)
    return {
        f"{pairing}_share": ops.mean(ops.cast(count == channels, "float32"))
        for channels, pairing in enumerate(PAIRINGS)
    }
