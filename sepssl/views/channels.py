"""Chooses what a view shows: the mixture, or one of its separated channels."""

from keras import ops

from sepssl.typing import Tensor

PAIRINGS = ("mixture_mixture", "mixture_channel", "channel_channel")
MIXTURE = -1  # in place of the number of a channel, 0, 1, ...
NO_CHANNEL = -2  # the mixture too, because no channel was audible
MAX_NO_CHANNEL_SHARE = 0.05  # our choice


def choose_channel(
    channels: Tensor,
    mixture: Tensor,
    uniform: Tensor,
    channel_floor_db: float = -30.0,
    mixture_floor_db: float = -30.0,
) -> Tensor:
    """Picks one channel of every example, with equal chances for all audible ones.

    Args:
        channels: [batch, sources, samples].
        mixture: [batch, samples], from which they were separated.
        uniform: [batch], in [0, 1): determines the choice.
        channel_floor_db, mixture_floor_db: channels whose power is further below that of the
            loudest channel, or of the mixture, are not chosen. A floor just below the mixture
            excludes all channels of a separator that spreads the mixture evenly: each of M channels
            is 20 log10(M) dB below it.

    Returns:
        Numbers of the channels: int32 [batch], `NO_CHANNEL` if none is audible, as with true
        sources that are silent for a while.
    """
    power = ops.sum(ops.square(channels), axis=-1)
    loudest = ops.max(power, axis=-1, keepdims=True)
    whole = ops.sum(ops.square(mixture), axis=-1, keepdims=True)
    audible = (power >= loudest * 10.0 ** (channel_floor_db / 10.0)) & (
        power >= whole * 10.0 ** (mixture_floor_db / 10.0)
    )
    audible = ops.cast(audible, "int32")
    count = ops.sum(audible, axis=-1)
    wanted = ops.cast(uniform * ops.cast(count, uniform.dtype), "int32")
    # In half precision a number just below 1 is rounded to 1.
    wanted = ops.expand_dims(ops.minimum(wanted, count - 1), -1)
    rank = ops.cumsum(audible, axis=-1) - 1
    number = ops.argmax(ops.cast((rank == wanted) & (audible > 0), "int32"), axis=-1)
    return ops.where(count > 0, ops.cast(number, "int32"), NO_CHANNEL)


def choose_views(
    mixtures: Tensor,
    channels: Tensor,
    uniforms: Tensor,
    probabilities: tuple[float, float, float],
    channel_floor_db: float = -30.0,
    mixture_floor_db: float = -30.0,
) -> tuple[Tensor, Tensor]:
    """Turns two patches of every recording into two views, whose kinds are drawn.

    Args:
        mixtures: [batch, 2, samples].
        channels: [batch, 2, sources, samples].
        uniforms: [batch, 4], in [0, 1): pairing, order of the views, channel of each view.
        probabilities: of `PAIRINGS`; they add up to 1.
        channel_floor_db, mixture_floor_db: see `choose_channel`.

    Returns:
        Views [batch, 2, samples], and the channel that each shows, int32 [batch, 2]; `MIXTURE` or
        `NO_CHANNEL` for the mixture.
    """
    mixture_mixture, mixture_channel, _ = probabilities
    both_mixtures = uniforms[:, 0] < mixture_mixture
    both_channels = uniforms[:, 0] >= mixture_mixture + mixture_channel
    # In a mixture/channel pair, either view can be the channel.
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
        channel_floor_db,
        mixture_floor_db,
    )
    rows = ops.arange(ops.shape(number)[0], dtype="int32") * sources + ops.maximum(number, 0)
    chosen = ops.take(ops.reshape(channels, (-1, samples)), rows, axis=0)
    shown = ops.where(is_channel, ops.reshape(number, ops.shape(is_channel)), MIXTURE)
    chosen = ops.reshape(chosen, ops.shape(mixtures))
    return ops.where(ops.expand_dims(shown >= 0, -1), chosen, mixtures), shown


def pairing_shares(shown: Tensor) -> dict:
    """The share of pairs of each of `PAIRINGS`, a scalar "<pairing>_share" each.

    "no_channel_share" is that of the pairs that show a mixture because no channel was audible.

    Args:
        shown: int [batch, 2], as returned by `choose_views`.
    """
    count = ops.sum(ops.cast(shown >= 0, "int32"), axis=1)
    shares = {
        f"{pairing}_share": ops.mean(ops.cast(count == channels, "float32"))
        for channels, pairing in enumerate(PAIRINGS)
    }
    missing = ops.any(shown == NO_CHANNEL, axis=1)
    return shares | {"no_channel_share": ops.mean(ops.cast(missing, "float32"))}


def no_channel_warning(metrics: dict[str, float]) -> str | None:
    """A warning if "no_channel_share" shows that the floors are too high, else None."""
    share = metrics["no_channel_share"]
    if share <= MAX_NO_CHANNEL_SHARE:
        return None
    return (
        f"no_channel_share={share:.2g} (expected at most {MAX_NO_CHANNEL_SHARE}): this share "
        "of pairs fell back to the mixture because no channel was above both "
        "views.channel_floor_db and views.mixture_floor_db"
    )
