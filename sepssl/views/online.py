"""Separation inside the training graph, instead of channels stored beforehand."""

from collections.abc import Sequence

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sepssl")
class OnlineSeparation(keras.layers.Layer):
    """Separates every clip of a batch by one of several separators, and cuts two patches out.

    A separator sees only the clips that are its own. Where these are as long as the recordings, the
    views are those of stored channels, to the 16 bits that stores keep; of longer recordings it
    sees a part, of shorter ones a repetition.

    Args:
        separators: `Separator`s, not trained here.
        patch_samples: length of a patch.

    Shapes: a dict of "clips" [batch, samples], "separator" int [batch], which one each clip is
    for, "starts" int [batch, 2] of the patches and "window" int [batch] of the clips, in samples of
    the recording -> the same dict with "mixtures" [batch, 2, patch_samples] and "channels" [batch,
    2, sources, patch_samples]; separators with fewer sources than others give silent ones.

    Reference: our choice.
    """

    def __init__(self, separators: Sequence[keras.Model], patch_samples: int, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        self.separators = list(separators)
        self.patch_samples = patch_samples
        for separator in self.separators:
            separator.trainable = False

    def build(self, input_shape=None):
        for separator in self.separators:
            if not separator.built:
                separator.build((None, None))
        self.built = True

    def call(self, batch):
        # Nothing here is trained; without this, the gradient would keep all that lies between.
        channels = ops.stop_gradient(self._separate(batch["clips"], batch["separator"]))
        starts = batch["starts"] - batch["window"][:, None]
        everything = ops.concatenate([batch["clips"][:, None], channels], axis=1)
        patches = ops.stack([self._cut(everything, starts[:, view]) for view in range(2)], axis=1)
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

    def _cut(self, waveforms, starts):
        """[batch, rows, samples], int [batch] -> [batch, rows, patch_samples]."""
        places = ops.expand_dims(starts, 1) + ops.arange(self.patch_samples, dtype=starts.dtype)
        shape = (*ops.shape(waveforms)[:2], self.patch_samples)
        return ops.take_along_axis(
            waveforms, ops.broadcast_to(ops.expand_dims(places, 1), shape), axis=-1
        )

    def get_config(self):
        return super().get_config() | {
            "separators": [keras.saving.serialize_keras_object(s) for s in self.separators],
            "patch_samples": self.patch_samples,
        }

    @classmethod
    def from_config(cls, config):
        separators = [keras.saving.deserialize_keras_object(s) for s in config["separators"]]
        return cls(**(config | {"separators": separators}))
