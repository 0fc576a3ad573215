"""Which sound a view shows: the mixture, or one of its separated channels."""

from keras import ops

PAIRINGS = ("mixture_mixture", "mixture_channel", "channel_channel")


def choose_channel(channels, uniform, floor_db: float = -30.0):
    """Picks one channel of every example, with equal chances for all that can be heard.

    Args:
        channels: [batch, sources, samples].
        uniform: [batch], in [0, 1): decides.
        floor_db: channels whose power lies further below the loudest one's are passed over.

    Returns:
        [batch, samples].
    """
    power = ops.mean(ops.square(channels), axis=-1)
    loudest = ops.max(power, axis=-1, keepdims=True)
    audible = ops.cast(power >= loudest * 10.0 ** (floor_db / 10.0), "int32")
    count = ops.sum(audible, axis=-1)
    wanted = ops.cast(uniform * ops.cast(count, uniform.dtype), "int32")
    # uniform * count can round up to count.
    wanted = ops.expand_dims(ops.minimum(wanted, count - 1), -1)
    rank = ops.cumsum(audible, axis=-1) - 1
    chosen = ops.cast((rank == wanted) & (audible > 0), channels.dtype)
    return ops.sum(channels * ops.expand_dims(chosen, -1), axis=1)


def choose_views(mixtures, channels, uniforms, probabilities, floor_db: float = -30.0):
    """Turns two patches of every recording into two views of the drawn kinds.

    Args:
        mixtures: [batch, 2, samples].
        channels: [batch, 2, sources, samples].
        uniforms: [batch, 4], in [0, 1): pairing, order of the views, channel of each view.
        probabilities: of `PAIRINGS`, adding up to 1.
        floor_db: see `choose_channel`.

    Returns:
        views [batch, 2, samples], and whether each is a channel: bool [batch, 2].
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
    chosen = ops.stack(
        [choose_channel(channels[:, view], uniforms[:, 2 + view], floor_db) for view in range(2)],
        axis=1,
    )
    return ops.where(ops.expand_dims(is_channel, -1), chosen, mixtures), is_channel
