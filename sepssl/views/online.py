"""Separation inside the training graph, as an alternative to stored channels."""

import random
from collections.abc import Sequence

import keras
from keras import ops

from sepssl.separation.separator import Separator
from sepssl.typing import Shape, Tensor
from sepssl.views.patches import cut_patches


@keras.saving.register_keras_serializable(package="sepssl")
class OnlineSeparation(keras.layers.Layer):
    """Separates every clip of a batch with one of several separators, and cuts two patches out.

    A separator sees only the clips assigned to it. If clips are as long as the recordings, views
    equal those from stored channels, to the 16 bits that stores keep; of a longer recording it sees
    a part, and a shorter one is repeated.

    Args:
        separators: `Separator`s. The layer uses copies with the same weights, which are never
            trained; the originals are not modified.
        patch_samples: length of a patch.
        dtype: float32 by default; each separator computes under its own policy.

    Shapes: a dict of "clips" [batch, samples], "separator" int [batch], the one for each clip,
    "starts" int [batch, 2] of the patches and "window" int [batch], the start of each clip, both in
    samples of the recording -> the same dict with "mixtures" [batch, 2, patch_samples] and
    "channels" [batch, 2, sources, patch_samples], padded with silent ones for separators with fewer
    sources than others.

    Example:
        >>> separation = OnlineSeparation([Separator(2, STFTBasis(), TDCN(8, 16, 2, 1))], 15600)
        >>> front_end = FrontEnd(LogMel(), separation=separation)
        >>> a, b, shown = front_end(np.random.default_rng(0).normal(size=(4, 32000)))
        >>> bool(np.all((np.asarray(shown) >= 0).sum(axis=1) == 1))  # one channel, one mixture
        True

    Reference: our choice.
    """

    def __init__(self, separators: Sequence[Separator], patch_samples: int, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        if not separators:
            raise ValueError("separators: there are none; expected one or more")
        self.separators = [_frozen_copy(separator) for separator in separators]
        self.patch_samples = patch_samples

    def build(self, input_shape: Shape | None = None) -> None:
        self.built = True

    def call(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        # Nothing here is trained; without this, all activations would be kept for the gradient.
        channels = ops.stop_gradient(self._separate(batch["clips"], batch["separator"]))
        starts = batch["starts"] - batch["window"][:, None]
        everything = ops.concatenate([batch["clips"][:, None], channels], axis=1)
        patches = [cut_patches(everything, starts[:, view], self.patch_samples) for view in (0, 1)]
        patches = ops.stack(patches, axis=1)
        return {**batch, "mixtures": patches[:, :, 0], "channels": patches[:, :, 1:]}

    def _separate(self, clips, numbers):
        rows = max(separator.num_sources for separator in self.separators)
        order, parts = [], []
        for number, separator in enumerate(self.separators):
            own = ops.nonzero(numbers == number)[0]
            channels = separator(ops.take(clips, own, axis=0))
            missing = rows - separator.num_sources
            parts.append(ops.pad(channels, [[0, 0], [0, missing], [0, 0]]))
            order.append(own)
        back = ops.argsort(ops.concatenate(order))
        return ops.take(ops.concatenate(parts), back, axis=0)

    def get_config(self) -> dict:
        return super().get_config() | {
            "separators": [keras.saving.serialize_keras_object(s) for s in self.separators],
            "patch_samples": self.patch_samples,
        }

    @classmethod
    def from_config(cls, config: dict) -> "OnlineSeparation":
        separators = [keras.saving.deserialize_keras_object(s) for s in config["separators"]]
        return cls(**(config | {"separators": separators}))


def _frozen_copy(separator: Separator) -> Separator:
    """A separator with the same weights that is not trainable."""
    if not separator.built:
        separator.build((None, None))
    state = random.getstate()
    copy = type(separator).from_config(separator.get_config())
    copy.build((None, None))
    # The weights just drawn are overwritten; they must not affect what is drawn later.
    random.setstate(state)
    copy.set_weights(separator.get_weights())
    copy.trainable = False
    return copy
