"""From two patches of a recording and its channels to the two views that training compares."""

import math

import keras
from keras import ops

from sepssl.audio.log_mel import LogMel
from sepssl.errors import InputError
from sepssl.views.channels import MIXTURE, choose_views
from sepssl.views.equalization import KNOTS, equalize
from sepssl.views.example_mixing import mix_examples, mix_spectrograms
from sepssl.views.spec_augment import spec_augment


@keras.saving.register_keras_serializable(package="sepssl")
class FrontEnd(keras.layers.Layer):
    """Channel choice, example mixing, log-mel, random equalisation, SpecAugment.

    Nothing is drawn here: every decision is a function of the uniform numbers in the batch, so that
    a step's views depend on the seed and the step alone.

    Args:
        log_mel: `LogMel`, the encoder's own.
        mixture_mixture, mixture_channel, channel_channel: probabilities of the pairings.
        channel_floor_db, mixture_floor_db: channels this far below the loudest one, or below the
            mixture, are not chosen; where none is left, the view shows the mixture.
        example_mixing: share of pairs one of whose views another recording is mixed into.
        min_mixing_db, max_mixing_db: level of that recording relative to the view.
        mixing_domain: "waveform", or "log_mel" to add powers in the log-mel spectrogram.
        equalization_db: largest gain of a random frequency response of every view; 0 for none.
        time_masks, time_width: stripes of time masked in a patch, and the widest, in frames.
        frequency_masks, frequency_width: the same for frequency, in bands.
        separation: `OnlineSeparation`, where the batch holds clips without channels; else None.

    Shapes: a dict of "mixtures" [batch, 2, samples], "uniforms" [batch, num_uniforms] and, if a
    pairing needs them, "channels" [batch, 2, sources, samples] (or what `separation` makes these
    from) -> two views [batch, frames, bands], and which channel each shows, int32 [batch, 2], as
    of `choose_views`.

    Reference: the augmentation front-end of Fonseca et al. (2021); all numbers are our choice.
    """

    def __init__(
        self,
        log_mel: LogMel,
        mixture_mixture: float = 0.0,
        mixture_channel: float = 1.0,
        channel_channel: float = 0.0,
        channel_floor_db: float = -30.0,
        mixture_floor_db: float = -30.0,
        example_mixing: float = 0.0,
        min_mixing_db: float = -20.0,
        max_mixing_db: float = -5.0,
        mixing_domain: str = "waveform",
        equalization_db: float = 0.0,
        time_masks: int = 1,
        time_width: int = 24,
        frequency_masks: int = 1,
        frequency_width: int = 12,
        separation: keras.layers.Layer | None = None,
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
        if max(channel_floor_db, mixture_floor_db) > 0:
            raise InputError(
                f"channel_floor_db={channel_floor_db}, mixture_floor_db={mixture_floor_db}: "
                "expected 0 dB or less"
            )
        if min_mixing_db > max_mixing_db:
            raise InputError(
                f"min_mixing_db={min_mixing_db}, max_mixing_db={max_mixing_db}: expected the lower "
                "one first"
            )
        if mixing_domain not in ("waveform", "log_mel") or equalization_db < 0:
            raise InputError(
                f"mixing_domain={mixing_domain!r}, equalization_db={equalization_db}: expected "
                "waveform or log_mel, and 0 dB or more"
            )
        self.log_mel = log_mel
        self.mixture_mixture = mixture_mixture
        self.mixture_channel = mixture_channel
        self.channel_channel = channel_channel
        self.channel_floor_db = channel_floor_db
        self.mixture_floor_db = mixture_floor_db
        self.example_mixing = example_mixing
        self.min_mixing_db = min_mixing_db
        self.max_mixing_db = max_mixing_db
        self.mixing_domain = mixing_domain
        self.equalization_db = equalization_db
        self.time_masks = time_masks
        self.time_width = time_width
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width
        self.separation = separation

    @property
    def needs_channels(self) -> bool:
        """Whether any pairing shows a channel."""
        return self.mixture_mixture < 1.0

    @property
    def num_uniforms(self) -> int:
        """Numbers that every example brings: 4 choices, 3 for mixing, then those of each view."""
        knots = KNOTS if self.equalization_db > 0.0 else 0
        return 7 + 2 * (knots + 2 * (self.time_masks + self.frequency_masks))

    def build(self, input_shape=None):
        if self.separation is not None:
            self.separation.build()
        self.built = True

    def call(self, batch):
        if self.separation is not None:
            batch = self.separation(batch)
        views, uniforms = batch["mixtures"], batch["uniforms"]
        shown = ops.full(ops.shape(views)[:2], MIXTURE, "int32")
        if self.needs_channels:
            views, shown = choose_views(
                views,
                batch["channels"],
                uniforms[:, :4],
                (self.mixture_mixture, self.mixture_channel, self.channel_channel),
                self.channel_floor_db,
                self.mixture_floor_db,
            )
        mixing = (uniforms[:, 4:7], self.example_mixing, self.min_mixing_db, self.max_mixing_db)
        if self.example_mixing > 0.0 and self.mixing_domain == "waveform":
            views = mix_examples(views, *mixing)
        magnitude = self.log_mel.magnitude(views)[:, :, : self.log_mel.patch_frames]
        if self.example_mixing > 0.0 and self.mixing_domain == "log_mel":
            magnitude = mix_spectrograms(magnitude, *mixing)
        middle = 7 + (self.num_uniforms - 7) // 2
        a = self._augment(magnitude[:, 0], uniforms[:, 7:middle])
        b = self._augment(magnitude[:, 1], uniforms[:, middle:])
        return a, b, shown

    def _augment(self, magnitude, uniforms):
        if self.equalization_db > 0.0:
            magnitude = equalize(magnitude, uniforms[:, :KNOTS], self.equalization_db)
            uniforms = uniforms[:, KNOTS:]
        return spec_augment(
            self.log_mel.from_magnitude(magnitude),
            uniforms,
            self.time_masks,
            self.time_width,
            self.frequency_masks,
            self.frequency_width,
        )

    def get_config(self):
        return super().get_config() | {
            "log_mel": keras.saving.serialize_keras_object(self.log_mel),
            "mixture_mixture": self.mixture_mixture,
            "mixture_channel": self.mixture_channel,
            "channel_channel": self.channel_channel,
            "channel_floor_db": self.channel_floor_db,
            "mixture_floor_db": self.mixture_floor_db,
            "example_mixing": self.example_mixing,
            "min_mixing_db": self.min_mixing_db,
            "max_mixing_db": self.max_mixing_db,
            "mixing_domain": self.mixing_domain,
            "equalization_db": self.equalization_db,
            "time_masks": self.time_masks,
            "time_width": self.time_width,
            "frequency_masks": self.frequency_masks,
            "frequency_width": self.frequency_width,
            "separation": keras.saving.serialize_keras_object(self.separation),
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("log_mel", "separation")
        }
        return cls(**(config | parts))
