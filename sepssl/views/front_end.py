"""From two patches of a recording and its channels to the two views that training compares."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from sepssl.audio.framing import at_least, check_waveform_shape
from sepssl.audio.log_mel import LogMel
from sepssl.distribution import num_replicas, replica_id
from sepssl.errors import InputError
from sepssl.typing import Shape, Tensor
from sepssl.views.channels import MIXTURE, choose_views
from sepssl.views.equalization import KNOTS, equalize
from sepssl.views.example_mixing import choose_mixing, mix_examples, mix_spectrograms
from sepssl.views.online import OnlineSeparation
from sepssl.views.patches import cut_patches
from sepssl.views.spec_augment import spec_augment

# The roles of a pair's uniform numbers. Those after the first `SHARED` augment the views: one half
# the first view, the other half the second.
CHOICE = slice(0, 4)  # of `choose_views`
MIXING = slice(4, 7)  # of `mix_examples`
SHARED = 7


@keras.saving.register_keras_serializable(package="sepssl")
class FrontEnd(keras.layers.Layer):
    """Channel choice, example mixing, log-mel, random equalisation, SpecAugment.

    Every decision is a function of uniform numbers in [0, 1). If the batch contains them, views are
    a function of the batch alone, which exact resumption requires. Otherwise the layer draws them
    from a generator whose state is one of its variables; each replica draws the numbers of the
    global batch and uses its share, so that views do not depend on the number of replicas.

    Args:
        log_mel: `LogMel`, the encoder's own.
        mixture_mixture, mixture_channel, channel_channel: probabilities of the pairings; None for
            `mixture_channel` means 1 minus the others.
        channel_floor_db, mixture_floor_db: channels this far below the loudest one, or below the
            mixture, are not chosen; if none remains, the view shows the mixture.
        example_mixing: share of pairs in which another recording is mixed into one of the views.
        min_mixing_db, max_mixing_db: level of that recording relative to the view.
        mixing_domain: "waveform", or "log_mel" to add powers in the log-mel spectrogram.
        equalization_db: largest gain of a random frequency response applied to every view; 0 for
            none.
        time_masks, time_width: number of time masks per patch, and the largest width, in frames.
        frequency_masks, frequency_width: the same for frequency, in bands.
        separation: `OnlineSeparation` if batches contain clips without channels, else None.
        seed: of the numbers drawn if a batch contains none.
        dtype: float32 by default, whatever the global policy.

    Shapes: one of these -> two views [batch, frames, bands], and which channel each shows, int32
    [batch, 2], as returned by `choose_views`.

    - A dict of "mixtures" [batch, 2, samples] and, if a pairing needs them, "channels" [batch, 2,
      sources, samples] (or the input of `separation`), optionally "uniforms" [batch, num_uniforms],
      without which they are drawn. Further entries are ignored.
    - Waveforms [batch, samples]: each view is a patch at a random place. With `separation`, one of
      its separators is drawn for every clip.
    - A pair of waveforms [batch, samples], two views of the same clips made elsewhere, of which the
      first patch is used; requires `mixture_mixture` = 1.

    Waveforms shorter than a patch are padded with zeros to its length.

    Raises:
        InputError: if the options do not fit together.
        ValueError: when called, if a pairing needs channels that the batch lacks, or if example
            mixing gets an odd batch.

    Example:
        >>> front_end = FrontEnd(LogMel(), mixture_mixture=1.0)
        >>> a, b, shown = front_end(np.random.default_rng(0).normal(size=(4, 32000)))
        >>> a.shape, b.shape
        ((4, 96, 64), (4, 96, 64))

    Reference: the augmentation front-end of Fonseca et al. (2021); all numbers are our choice.
    """

    def __init__(
        self,
        log_mel: LogMel,
        mixture_mixture: float = 0.0,
        mixture_channel: float | None = None,
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
        separation: OnlineSeparation | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        if mixture_channel is None:
            mixture_channel = 1.0 - mixture_mixture - channel_channel
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
                "'waveform' or 'log_mel', and 0 dB or more"
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
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def needs_channels(self) -> bool:
        """Whether any pairing shows a channel."""
        return self.mixture_mixture < 1.0

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers that determine one pair of views."""
        knots = KNOTS if self.equalization_db > 0.0 else 0
        return SHARED + 2 * (knots + 2 * (self.time_masks + self.frequency_masks))

    def mixing(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Which views of a batch are mixed with their neighbour, and at what level.

        Args:
            uniforms: [batch, num_uniforms].

        Returns:
            bool [batch, 2], and the neighbour's level in dB relative to the view, [batch, 1].
        """
        return choose_mixing(uniforms[:, MIXING], *self._mixing_options)

    @property
    def _mixing_options(self) -> tuple[float, float, float]:
        return self.example_mixing, self.min_mixing_db, self.max_mixing_db

    def build(self, input_shape: Shape | None = None) -> None:
        if self.separation is not None:
            self.separation.build()
        self.built = True

    def call(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        batch = self._complete(batch)
        mixtures, uniforms = batch["mixtures"], batch["uniforms"]
        views = mixtures
        shown = ops.full(ops.shape(views)[:2], MIXTURE, "int32")
        if self.needs_channels:
            views, shown = choose_views(
                views,
                batch["channels"],
                uniforms[:, CHOICE],
                (self.mixture_mixture, self.mixture_channel, self.channel_channel),
                self.channel_floor_db,
                self.mixture_floor_db,
            )
        mixing = (uniforms[:, MIXING], *self._mixing_options)
        if self.example_mixing > 0.0 and self.mixing_domain == "waveform":
            views = mix_examples(views, *mixing)
        magnitude = self._magnitude(views)
        level = self.log_mel.normalize_level
        if level != "none":
            # The mixture's two patches stand for the waveform, in which channels keep their level.
            whole = self._magnitude(mixtures) if level == "waveform" else magnitude
            magnitude = magnitude * self.log_mel.gain(whole)
        if self.example_mixing > 0.0 and self.mixing_domain == "log_mel":
            magnitude = mix_spectrograms(magnitude, *mixing)
        middle = SHARED + (self.num_uniforms - SHARED) // 2
        a = self._augment(magnitude[:, 0], uniforms[:, SHARED:middle])
        b = self._augment(magnitude[:, 1], uniforms[:, middle:])
        return a, b, shown

    def _magnitude(self, patches):
        return self.log_mel.magnitude(patches)[:, :, : self.log_mel.patch_frames]

    def _complete(self, data) -> dict:
        """What `call` takes -> a dict of mixtures, uniform numbers and, if needed, channels."""
        if isinstance(data, Mapping):
            batch = dict(data)
        elif isinstance(data, Sequence) and len(data) == 2:
            a, b = (self._padded(view) for view in data)
            patch = self.log_mel.patch_samples
            batch = {"mixtures": ops.stack([a[:, :patch], b[:, :patch]], axis=1)}
        else:
            batch = self._draw_patches(data[0] if isinstance(data, Sequence) else data)
        if self.separation is not None and "clips" in batch:
            batch = self.separation(batch)
        if self.needs_channels and "channels" not in batch:
            raise ValueError(
                f"mixture_mixture={self.mixture_mixture}: views need channels; "
                'expected "channels" in the batch, FrontEnd(separation=...) with waveforms or '
                '"clips", or mixture_mixture=1'
            )
        if "uniforms" not in batch:
            count = ops.shape(batch["mixtures"])[0]
            batch["uniforms"] = self._draw(count, self.num_uniforms)
        return batch

    def _draw_patches(self, waveform) -> dict:
        """[batch, samples] -> the input of `separation`, or two patches of each without it."""
        waveform = self._padded(waveform)
        patch, (count, samples) = self.log_mel.patch_samples, ops.shape(waveform)
        numbers = self._draw(count, 3)
        places = ops.cast(samples - patch + 1, "float32")
        # Of clips with more than 2^24 samples, `places` is rounded.
        starts = ops.minimum(ops.cast(numbers[:, :2] * places, "int32"), samples - patch)
        if self.separation is not None:
            separators = len(self.separation.separators)
            return {
                "clips": waveform,
                "separator": ops.cast(numbers[:, 2] * separators, "int32"),
                "starts": starts,
                "window": ops.zeros_like(starts[:, 0]),
            }
        clips = ops.expand_dims(waveform, 1)
        patches = [cut_patches(clips, starts[:, view], patch)[:, 0] for view in (0, 1)]
        return {"mixtures": ops.stack(patches, axis=1)}

    def _padded(self, waveform):
        """[batch, samples], at least a patch long, in float32."""
        waveform = ops.cast(waveform, "float32")
        check_waveform_shape(waveform.shape)
        missing = at_least(self.log_mel.patch_samples - ops.shape(waveform)[1], 0)
        return ops.pad(waveform, [[0, 0], [0, missing]])

    def _draw(self, count, numbers: int):
        """Uniform numbers [count, numbers] of this replica's part of the global batch."""
        replicas = num_replicas()
        drawn = keras.random.uniform((replicas * count, numbers), seed=self.seed_generator)
        return drawn if replicas == 1 else drawn[replica_id() * count :][:count]

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

    def get_config(self) -> dict:
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
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict) -> "FrontEnd":
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("log_mel", "separation")
        }
        return cls(**(config | parts))
