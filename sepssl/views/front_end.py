"""From two patches of a recording and its channels to the two views that training compares."""

import math

import keras
from keras import ops

from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.views.channels import choose_views
from sepssl.views.example_mixing import mix_examples
from sepssl.views.spec_augment import spec_augment


@keras.saving.register_keras_serializable(package="sepssl")
class FrontEnd(keras.layers.Layer):
    """Channel choice, example mixing, log-mel, SpecAugment.

    Nothing is drawn here: every decision is a function of the uniform numbers in the batch, so that
    a step's views depend on the seed and the step alone.

    Args:
        log_mel: `LogMel`, the encoder's own.
        mixture_mixture, mixture_channel, channel_channel: probabilities of the pairings.
        channel_floor_db: channels this far below the loudest one are not chosen.
        example_mixing: share of pairs one of whose views another recording is mixed into.
        min_mixing_db, max_mixing_db: level of that recording relative to the view.
        time_masks, time_width: stripes of time masked in a patch, and the widest, in frames.
        frequency_masks, frequency_width: the same for frequency, in bands.

    Shapes: a dict of "mixtures" [batch, 2, samples], "uniforms" [batch, num_uniforms] and, if a
    pairing needs them, "channels" [batch, 2, sources, samples] -> two views [batch, frames,
    bands], and the share of views that are channels (scalar).

    Reference: the augmentation front-end of Fonseca et al. (2021); all numbers are our choice.
    """

    def __init__(
        self,
        log_mel: LogMel,
        mixture_mixture: float = 0.0,
        mixture_channel: float = 1.0,
        channel_channel: float = 0.0,
        channel_floor_db: float = -30.0,
        example_mixing: float = 0.0,
        min_mixing_db: float = -20.0,
        max_mixing_db: float = -5.0,
        time_masks: int = 1,
        time_width: int = 24,
        frequency_masks: int = 1,
        frequency_width: int = 12,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        probabilities = (mixture_mixture, mixture_channel, channel_channel)
        if min(probabilities) < 0 or not math.isclose(sum(probabilities), 1.0, abs_tol=1e-6):
            raise InputError(
                f"mixture_mixture, mixture_channel, channel_channel = {probabilities}: expected "
                "probabilities that add up to 1"
            )
        for name, width, size in (
            ("time", time_width, log_mel.patch_frames),
            ("frequency", frequency_width, log_mel.bands),
        ):
            if not 0 <= width <= size:
                raise InputError(f"{name}_width={width}: expected 0 to {size}, the patch's size")
        if min(time_masks, frequency_masks) < 0 or not 0 <= example_mixing <= 1:
            raise InputError(
                f"time_masks={time_masks}, frequency_masks={frequency_masks}, "
                f"example_mixing={example_mixing}: expected masks of 0 or more, a share of 0 to 1"
            )
        self.log_mel = log_mel
        self.mixture_mixture = mixture_mixture
        self.mixture_channel = mixture_channel
        self.channel_channel = channel_channel
        self.channel_floor_db = channel_floor_db
        self.example_mixing = example_mixing
        self.min_mixing_db = min_mixing_db
        self.max_mixing_db = max_mixing_db
        self.time_masks = time_masks
        self.time_width = time_width
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width

    @property
    def needs_channels(self) -> bool:
        """Whether any pairing shows a channel."""
        return self.mixture_mixture < 1.0

    @property
    def num_uniforms(self) -> int:
        """Numbers that every example brings: 4 choices, 3 for mixing, 2 per stripe and view."""
        return 7 + 4 * (self.time_masks + self.frequency_masks)

    def build(self, input_shape=None):
        self.built = True

    def call(self, batch):
        views, uniforms = batch["mixtures"], batch["uniforms"]
        channel_share = 0.0
        if self.needs_channels:
            views, is_channel = choose_views(
                views,
                batch["channels"],
                uniforms[:, :4],
                (self.mixture_mixture, self.mixture_channel, self.channel_channel),
                self.channel_floor_db,
            )
            channel_share = ops.mean(ops.cast(is_channel, "float32"))
        if self.example_mixing > 0.0:
            views = mix_examples(
                views, uniforms[:, 4:7], self.example_mixing, self.min_mixing_db, self.max_mixing_db
            )
        mel = self.log_mel.spectrogram(views)[:, :, : self.log_mel.patch_frames]
        masks = ops.split(uniforms[:, 7:], 2, axis=1) if self.num_uniforms > 7 else [None, None]
        a, b = (
            spec_augment(
                mel[:, view],
                masks[view],
                self.time_masks,
                self.time_width,
                self.frequency_masks,
                self.frequency_width,
            )
            for view in range(2)
        )
        return a, b, ops.convert_to_tensor(channel_share, "float32")

    def get_config(self):
        return super().get_config() | {
            "log_mel": keras.saving.serialize_keras_object(self.log_mel),
            "mixture_mixture": self.mixture_mixture,
            "mixture_channel": self.mixture_channel,
            "channel_channel": self.channel_channel,
            "channel_floor_db": self.channel_floor_db,
            "example_mixing": self.example_mixing,
            "min_mixing_db": self.min_mixing_db,
            "max_mixing_db": self.max_mixing_db,
            "time_masks": self.time_masks,
            "time_width": self.time_width,
            "frequency_masks": self.frequency_masks,
            "frequency_width": self.frequency_width,
        }

    @classmethod
    def from_config(cls, config):
        log_mel = keras.saving.deserialize_keras_object(config["log_mel"])
        return cls(**(config | {"log_mel": log_mel}))
