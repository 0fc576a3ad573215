"""SpecAugment: masked stripes of time and of frequency."""

from keras import ops

from sepssl.typing import Tensor


def mask_stripe(patches: Tensor, uniforms: Tensor, axis: int, max_width: int) -> Tensor:
    """Replaces a random stripe of every patch by the patch's mean.

    Args:
        patches: [batch, frames, bands].
        uniforms: [batch, 2], in [0, 1): width and place of the stripe.
        axis: 1 for a stripe of time, 2 for a stripe of frequency.
        max_width: the widest stripe, in frames or bands; widths are uniform from 0 to it.

    Returns:
        [batch, frames, bands].

    Reference: Park et al., SpecAugment (2019), without time warping.
    """
    size = patches.shape[axis]
    width = ops.floor(uniforms[:, 0] * (max_width + 1))
    start = ops.floor(uniforms[:, 1] * (size - width + 1))
    places = ops.arange(size, dtype="float32")[None]
    masked = (places >= start[:, None]) & (places < (start + width)[:, None])
    mean = ops.mean(patches, axis=(1, 2), keepdims=True)
    return ops.where(ops.expand_dims(masked, 3 - axis), mean, patches)


def spec_augment(
    patches: Tensor,
    uniforms: Tensor,
    time_masks: int,
    time_width: int,
    frequency_masks: int,
    frequency_width: int,
) -> Tensor:
    """Masks `time_masks` stripes of time, then `frequency_masks` stripes of frequency.

    Args:
        patches: [batch, frames, bands].
        uniforms: [batch, 2 * (time_masks + frequency_masks)], in [0, 1).
        time_masks, frequency_masks: numbers of stripes.
        time_width, frequency_width: the widest stripes, in frames and in bands.

    Returns:
        [batch, frames, bands].
    """
    masks = [(1, time_width)] * time_masks + [(2, frequency_width)] * frequency_masks
    for i, (axis, width) in enumerate(masks):
        patches = mask_stripe(patches, uniforms[:, 2 * i : 2 * i + 2], axis, width)
    return patches
