"""Cutting a waveform into overlapping frames, and adding frames back up."""

from keras import ops


def frame(waveform, frame_length: int, hop: int):
    """Cuts into `1 + ceil((samples - frame_length) / hop)` frames, zeros after the last sample.

    Args:
        waveform: [..., samples].
        frame_length: samples in a frame, a multiple of `hop`.
        hop: samples from one frame to the next.

    Returns:
        [..., frames, frame_length].
    """
    check_framing(frame_length, hop)
    samples = ops.shape(waveform)[-1]
    missing = -(-(_at_least(samples, frame_length) - frame_length) // hop) * hop
    missing = missing + frame_length - samples
    lead = [[0, 0]] * (len(waveform.shape) - 1)
    padded = ops.pad(waveform, [*lead, [0, missing]])
    blocks = ops.reshape(padded, (*ops.shape(waveform)[:-1], -1, hop))
    # Frames as shifted blocks: slices and one concatenation, where a gather by index is slow.
    overlap = frame_length // hop
    count = ops.shape(blocks)[-2] - overlap + 1
    return ops.concatenate([blocks[..., i : i + count, :] for i in range(overlap)], axis=-1)


def overlap_add(frames, hop: int, num_samples):
    """Adds frames up at their places: the transpose of `frame`.

    Args:
        frames: [..., frames, frame_length], `frame_length` a multiple of `hop`.
        hop: samples from one frame to the next.
        num_samples: length to cut the result to, at most `(frames - 1) * hop + frame_length`.

    Returns:
        [..., num_samples].
    """
    frame_length = frames.shape[-1]
    check_framing(frame_length, hop)
    overlap = frame_length // hop
    lead = [[0, 0]] * (len(frames.shape) - 2)
    total = 0.0
    for i in range(overlap):
        block = frames[..., i * hop : (i + 1) * hop]
        total = total + ops.pad(block, [*lead, [i, overlap - 1 - i], [0, 0]])
    shape = ops.shape(frames)[:-2]
    return ops.reshape(total, (*shape, -1))[..., :num_samples]


def _at_least(value, minimum: int):
    return max(value, minimum) if isinstance(value, int) else ops.maximum(value, minimum)


def check_framing(frame_length: int, hop: int) -> None:
    """Raises ValueError unless `frame_length` is a positive multiple of `hop`."""
    if hop < 1 or frame_length < 1 or frame_length % hop:
        raise ValueError(
            f"frame_length={frame_length}, hop={hop}: expected a frame length that is a "
            "multiple of the hop"
        )
