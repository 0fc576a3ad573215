"""Cutting a waveform into overlapping frames, and adding frames back up."""

from collections.abc import Sequence

from keras import ops

from sepssl.typing import Tensor

MAX_FRAME_LENGTH = 2**17  # samples, 2.7 s at 48 kHz; windows and filters are made for whole frames


def frame(waveform: Tensor, frame_length: int, hop: int) -> Tensor:
    """Cuts into `1 + ceil((samples - frame_length) / hop)` frames, zeros after the last sample.

    Args:
        waveform: [..., samples].
        frame_length: samples in a frame.
        hop: samples from one frame to the next, at most `frame_length`.

    Returns:
        [..., frames, frame_length].
    """
    check_framing(frame_length, hop)
    overlap = -(-frame_length // hop)
    samples = ops.shape(waveform)[-1]
    count = 1 - (-(at_least(samples, frame_length) - frame_length) // hop)
    missing = (count + overlap - 1) * hop - samples
    lead = [[0, 0]] * (len(waveform.shape) - 1)
    padded = ops.pad(waveform, [*lead, [0, missing]])
    blocks = ops.reshape(padded, (*ops.shape(waveform)[:-1], -1, hop))
    # Frames as shifted blocks: slices and one concatenation, where a gather by index is slow.
    count = ops.shape(blocks)[-2] - overlap + 1
    parts = [blocks[..., i : i + count, :] for i in range(overlap)]
    parts[-1] = parts[-1][..., : frame_length - (overlap - 1) * hop]
    return ops.concatenate(parts, axis=-1)


def overlap_add(frames: Tensor, hop: int, num_samples: int | Tensor) -> Tensor:
    """Adds frames up at their places: the transpose of `frame`.

    Args:
        frames: [..., frames, frame_length].
        hop: samples from one frame to the next, at most `frame_length`.
        num_samples: length to cut the result to, at most `(frames - 1) * hop + frame_length`.

    Returns:
        [..., num_samples].
    """
    frame_length = frames.shape[-1]
    check_framing(frame_length, hop)
    overlap = -(-frame_length // hop)
    lead = [[0, 0]] * (len(frames.shape) - 2)
    total = 0.0
    for i in range(overlap):
        block = frames[..., i * hop : (i + 1) * hop]
        short = max((i + 1) * hop - frame_length, 0)
        total = total + ops.pad(block, [*lead, [i, overlap - 1 - i], [0, short]])
    shape = ops.shape(frames)[:-2]
    return ops.reshape(total, (*shape, -1))[..., :num_samples]


def check_waveform_shape(shape: Sequence[int | None]) -> None:
    """Raises ValueError unless the shape is [batch, samples]."""
    if len(shape) != 2:
        raise ValueError(
            f"waveform of shape {tuple(shape)}: expected [batch, samples]; a single one is "
            "waveform[None], one with a channel axis is waveform[..., 0]"
        )


def at_least(value: int | Tensor, minimum: int) -> int | Tensor:
    """The larger one, where `value` is an int or, in a graph, an integer tensor."""
    return max(value, minimum) if isinstance(value, int) else ops.maximum(value, minimum)


def check_framing(frame_length: int, hop: int) -> None:
    """Raises ValueError unless frames are of a sane length, overlap or touch, and move on."""
    if not 1 <= hop <= frame_length <= MAX_FRAME_LENGTH:
        raise ValueError(
            f"frame_length={frame_length}, hop={hop}: expected a hop of 1 to the frame length, and "
            f"that at most {MAX_FRAME_LENGTH}"
        )
