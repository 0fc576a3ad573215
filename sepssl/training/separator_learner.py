"""Training steps of a separator: without sources, with sources, or both in one batch."""

from typing import Any

import keras
from keras import ops

from sepssl.distribution import num_replicas, replica_id
from sepssl.separation.mixit import (
    best_mixing,
    filled_up,
    least_squares_mixing,
    mixit_loss,
    mixtures_of_mixtures,
    num_assignments,
)
from sepssl.separation.permutation import MAX_SOURCES, pit_loss
from sepssl.separation.remixing import recordings_of, remix
from sepssl.separation.separator import Separator
from sepssl.separation.signal_losses import SIGNAL_LOSSES, energies, negative_snr
from sepssl.separation.sparsity import activity_sparsity, covariance_penalty
from sepssl.training.learner import Learner
from sepssl.training.usage import separation_flop
from sepssl.typing import Tensor

SEARCHES = ("exhaustive", "least_squares")
OBJECTIVES = ("mixit", "remixit", "self_remixing")
KEPT_WEIGHTS = ("current", "average")


@keras.saving.register_keras_serializable(package="sepssl")
class SeparatorLearner(Learner):
    """Trains a separator on recordings, by PIT on mixtures of known sources, or on both.

    On recordings alone, by one of

    - "mixit": it separates mixtures of mixtures, see `mixit.py`;
    - "remixit": the moving average of its weights separates recordings, and it separates mixtures
      of those channels, which are its references (see `remixing.py`);
    - "self_remixing": the same, but the references are the recordings: the channels it finds, put
      together again, must add up to them.

    Args:
        separator: `Separator`.
        objective: one of these names.
        num_mixtures: recordings added up to a mixture of mixtures, 2 or more.
        signal_loss: "log_mse", "snr" or "si_snr"; see `signal_losses.py`.
        search: how MixIT assigns sources, "exhaustive" or "least_squares" (for many sources).
        sparsity_weight, covariance_weight: of the penalties in `sparsity.py`, in dB.
        penalty_ramp_steps: over which these weights grow from 0, linearly; 0: they do not grow.
        silent_weight, silent_max_snr: of silent references, see `pit_loss`.
        average_decay: of the moving average of the weights, `average`, 0 to below 1; 0 for none. In
            step n, counted from 0, it is at most (1 + n) / (10 + n), so that the average soon
            forgets where training began.
        kept_weights: whose network is the `product`: the "current" weights' or the "average" ones'.
        seed: of the shuffles of channels, if batches contain no numbers for them.
        clip_norm: largest global gradient norm, 0 for no clipping.
        kwargs: `Learner`'s other arguments. With `gradient_accumulation_steps`, a step is that of
            the whole batch (but remixing without "uniforms" draws other numbers); each part holds
            whole groups of neighbours.

    Raises:
        ValueError: if a name is unknown, the separator has fewer than 2 sources, or too many for
            an exhaustive search; if a moving average is needed and missing.

    A batch is a float32 array of recordings, a pair of mixtures and true sources, or a dict with
    either or both:

        "recordings" [num_mixtures n, samples]: neighbours make a mixture of mixtures. Where the
            objective is not "mixit", [num_sources n, samples]: neighbours are remixed, optionally
            by "uniforms" [num_sources n, num_sources], see `remix`; drawn if they are absent. Of a
            batch of another size, the last mixture, or group, is filled up with the first
            recordings.
        "mixtures" [k, samples] and "sources" [k, count, samples]: true sources, silent ones where
            a mixture has fewer than `count`.

    All separated mixtures have the same weight. When called, or under `predict`, it separates
    waveforms [batch, samples] as `separator` does; of a dict, "recordings" and "mixtures".

    Example:
        >>> learner = SeparatorLearner(Separator(4, STFTBasis(), TDCN(16, 32, 2, 1)))
        >>> learner.compile(keras.optimizers.Adam(1e-3))
        >>> recordings = tf.data.Dataset.from_tensor_slices(waveforms).shuffle(100, seed=0)
        >>> learner.fit(recordings.batch(8, drop_remainder=True), epochs=2)
        >>> learner.separator.save("separator.keras")
    """

    metric_names = ("snr", "references_used", "sparsity", "covariance")
    shown_metrics = ("loss", "snr")

    def __init__(
        self,
        separator: Separator,
        num_mixtures: int = 2,
        signal_loss: str = "log_mse",
        search: str = "exhaustive",
        sparsity_weight: float = 0.0,
        covariance_weight: float = 0.0,
        clip_norm: float = 5.0,
        objective: str = "mixit",
        penalty_ramp_steps: int = 0,
        silent_weight: float = 1.0,
        silent_max_snr: float = 30.0,
        average_decay: float = 0.0,
        kept_weights: str = "current",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(clip_norm, **{"dtype": separator.dtype_policy, **kwargs})
        for name, value, known in (
            ("signal_loss", signal_loss, tuple(SIGNAL_LOSSES)),
            ("search", search, SEARCHES),
            ("objective", objective, OBJECTIVES),
            ("kept_weights", kept_weights, KEPT_WEIGHTS),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
        if separator.num_sources < 2:
            raise ValueError(f"{separator.num_sources} sources: expected at least 2")
        if objective == "mixit" and search == "exhaustive":
            num_assignments(num_mixtures, separator.num_sources)
        if objective != "mixit" and separator.num_sources > MAX_SOURCES:
            raise ValueError(
                f"{separator.num_sources} sources, objective={objective!r}: expected at most "
                f"{MAX_SOURCES}"
            )
        if penalty_ramp_steps < 0:
            raise ValueError(f"penalty_ramp_steps={penalty_ramp_steps}: expected 0 or more")
        if silent_weight < 0:
            raise ValueError(f"silent_weight={silent_weight}: expected 0 or more")
        if not 0 <= silent_max_snr <= 60:
            raise ValueError(f"silent_max_snr={silent_max_snr}: expected 0 to 60 dB")
        if not 0 <= average_decay < 1:
            raise ValueError(f"average_decay={average_decay}: expected 0 to below 1")
        if not average_decay and (objective != "mixit" or kept_weights == "average"):
            raise ValueError(
                f"average_decay={average_decay}, objective={objective!r}, kept_weights="
                f"{kept_weights!r}: expected a decay above 0, such as 0.999"
            )
        self.separator = separator
        self.num_mixtures = num_mixtures
        self.signal_loss = signal_loss
        self.search = search
        self.sparsity_weight = sparsity_weight
        self.covariance_weight = covariance_weight
        self.objective = objective
        self.penalty_ramp_steps = penalty_ramp_steps
        self.silent_weight = silent_weight
        self.silent_max_snr = silent_max_snr
        self.average_decay = average_decay
        self.kept_weights = kept_weights
        self.seed = seed
        if average_decay:
            config = keras.saving.serialize_keras_object(separator)
            self.average = keras.saving.deserialize_keras_object(config)
        if objective != "mixit":
            self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def gains_from_xla(self) -> bool:
        """Matrix products and elementwise operations are about twice as fast on CPUs."""
        return self.separator.tdcn.unroll  # XLA has no gradient of a scan

    @property
    def product(self) -> Separator:
        return self.average if self.kept_weights == "average" else self.separator

    def _mixing(self, references, estimates):
        """The assignment of sources, [batch, mixtures, sources]."""
        if self.search == "least_squares":
            return least_squares_mixing(references, estimates)
        return best_mixing(references, estimates, SIGNAL_LOSSES[self.signal_loss])

    def build(self, input_shape=None):
        if not self.separator.built:
            self.separator.build((None, None))
        if self.average_decay:
            if not self.average.built:
                self.average.build((None, None))
            self.average.set_weights(self.separator.get_weights())
            for variable in self.average.variables:
                # Of the variables, not of the network: files made of it are to be trained on.
                variable.trainable = False
        self.built = True

    def call(self, inputs, training=None):
        if isinstance(inputs, dict):
            return {
                key: self.separator(inputs[key], training=training)
                for key in ("recordings", "mixtures")
                if key in inputs
            }
        return self.separator(inputs, training=training)

    def update(self, data: Any) -> dict:
        metrics = super().update(data)
        if self.average_decay:
            updates = ops.cast(self.optimizer.iterations, "float32")  # this one included
            decay = ops.minimum(self.average_decay, updates / (updates + 9.0))
            pairs = zip(self.average.variables, self.separator.variables, strict=True)
            for average, current in pairs:
                average.assign(decay * average + (1.0 - decay) * current)
        return metrics

    def loss_and_metrics(self, data: Any, training: bool) -> tuple[Tensor, dict]:
        losses, metrics = self._loss_of_each(_as_dict(data), training)
        return ops.mean(losses), metrics

    def work(self, data: Any) -> tuple[int, float]:
        data = _as_dict(data)
        recordings, samples = data["recordings"].shape if "recordings" in data else (0, 0)
        passes = 0  # forward, over one mixture
        if self.objective == "mixit":
            passes += 3 * (recordings // self.num_mixtures)
        else:  # each is separated once by the average, without a gradient
            passes += 4 * recordings
        mixtures = 0
        if "sources" in data:
            mixtures, samples = data["mixtures"].shape
            passes += 3 * mixtures
        return recordings + mixtures, passes * separation_flop(self.separator, samples)

    def _loss_of_each(self, data: dict, training: bool):
        """The loss of every mixture, and metrics."""
        signal_loss = SIGNAL_LOSSES[self.signal_loss]
        mixtures, references = [], {}
        if "recordings" in data and self.objective != "mixit":
            recordings = filled_up(data["recordings"], self.separator.num_sources)
            references["remixed"] = self._remixed(recordings, data.get("uniforms"))
            mixtures.append(ops.sum(references["remixed"], axis=1))
        elif "recordings" in data:
            references["mixit"], mom = mixtures_of_mixtures(data["recordings"], self.num_mixtures)
            mixtures.append(mom)
        if "sources" in data:
            references["pit"] = data["sources"]
            mixtures.append(data["mixtures"])
        separated = ops.concatenate(mixtures) if len(mixtures) > 1 else mixtures[0]
        estimates = self.separator(separated, training=training)
        unsupervised = ops.shape(mixtures[0])[0] if "recordings" in data else 0

        losses, metrics, snr = [], {}, []
        if "mixit" in references:
            found = estimates[:unsupervised]
            mixing = self._mixing(references["mixit"], found)
            losses.append(mixit_loss(references["mixit"], found, signal_loss, mixing)[0])
            snr.append(_snr(references["mixit"], ops.matmul(mixing, found)))
            used = ops.sum(mixing, axis=-1) > 0
            metrics["references_used"] = ops.mean(ops.cast(used, "float32"))
        if "remixed" in references:
            found = estimates[:unsupervised]
            loss, matching = self._pit_loss(references["remixed"], found)
            rebuilt = recordings_of(ops.matmul(matching, found))[:, None]
            true = ops.cast(recordings, "float32")[:, None]  # [recordings, 1, samples]
            if self.objective == "self_remixing":
                loss = signal_loss(*energies(true, rebuilt))[:, 0]
            losses.append(loss)
            snr.append(_snr(true, rebuilt))
        if "pit" in references:
            found = estimates[unsupervised:]
            loss, matching = self._pit_loss(references["pit"], found)
            losses.append(loss)
            count = references["pit"].shape[1]
            snr.append(_snr(references["pit"], ops.matmul(matching, found)[:, :count]))
        for name, penalty, weight in (
            ("sparsity", activity_sparsity, self.sparsity_weight),
            ("covariance", covariance_penalty, self.covariance_weight),
        ):
            if weight:
                values = penalty(estimates)
                metrics[name] = ops.mean(values)
                if self.penalty_ramp_steps:
                    updates = ops.cast(self.optimizer.iterations, "float32")
                    values = values * ops.minimum(updates / self.penalty_ramp_steps, 1.0)
                losses = [ops.concatenate(losses) + weight * values]
        metrics["snr"] = ops.mean(ops.concatenate(snr))
        return ops.concatenate(losses), metrics

    def _pit_loss(self, references, estimates):
        signal_loss = SIGNAL_LOSSES[self.signal_loss]
        return pit_loss(references, estimates, signal_loss, self.silent_weight, self.silent_max_snr)

    def _remixed(self, recordings, uniforms):
        """References made of the average's channels, [batch, sources, samples]."""
        channels = ops.stop_gradient(self.average(recordings, training=False))
        if uniforms is not None:
            return remix(channels, filled_up(uniforms, self.separator.num_sources))
        # Every replica draws the numbers of the global batch, and uses its share.
        count, replicas = ops.shape(recordings)[0], num_replicas()
        shape = (replicas * count, self.separator.num_sources)
        drawn = keras.random.uniform(shape, seed=self.seed_generator)
        own = drawn if replicas == 1 else drawn[replica_id() * count :][:count]
        return remix(channels, own)

    def get_config(self):
        return super().get_config() | {
            "separator": keras.saving.serialize_keras_object(self.separator),
            "num_mixtures": self.num_mixtures,
            "signal_loss": self.signal_loss,
            "search": self.search,
            "sparsity_weight": self.sparsity_weight,
            "covariance_weight": self.covariance_weight,
            "objective": self.objective,
            "penalty_ramp_steps": self.penalty_ramp_steps,
            "silent_weight": self.silent_weight,
            "silent_max_snr": self.silent_max_snr,
            "average_decay": self.average_decay,
            "kept_weights": self.kept_weights,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        separator = keras.saving.deserialize_keras_object(config["separator"])
        return cls(**(config | {"separator": separator}))


def _as_dict(data: Any) -> dict:
    """A batch in any of its forms, as a dict."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(x, dict):
        return x
    return {"recordings": x} if y is None else {"mixtures": x, "sources": y}


def _snr(references, estimates):
    """Mean SNR over each example's non-silent references, in dB, at most 30: [batch]."""
    power, error, cross, threshold = energies(references, ops.stop_gradient(estimates))
    sounds = ops.cast(power >= threshold, "float32")
    snr = -negative_snr(power, error, cross, threshold) * sounds
    return ops.sum(snr, axis=-1) / ops.sum(sounds, axis=-1)
