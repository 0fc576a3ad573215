"""The learners, as small as they can be, with no argument at its default."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from cases import PATCH, log_mel, tdcn

import sepssl


@dataclasses.dataclass(frozen=True)
class LearnerCase:
    """A learner, its arguments, and the shapes of what an example of its batches holds."""

    kind: type
    arguments: Callable[[], dict]
    example: dict[str, tuple[int, ...]]
    variant: str = ""

    def __str__(self):
        return "-".join(filter(None, [self.kind.__name__, self.variant]))

    def make(self):
        return self.kind(**self.arguments())

    def data(self, batch: int, seed: int = 0):
        rng = np.random.default_rng(seed)

        def draw(name, shape):
            if name == "labels":
                return rng.integers(0, 2, (batch, *shape)).astype(np.float32)
            return (0.3 * rng.normal(size=(batch, *shape))).clip(-1, 1).astype(np.float32)

        return {name: draw(name, shape) for name, shape in self.example.items()}


def compiled(case: LearnerCase, policy: str = "float32", seed: int = 0):
    """A learner that is ready for a step, made under a global policy."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    try:
        learner = case.make()
        learner.build()
        learner.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
        learner.optimizer.build(learner.trainable_variables)
    finally:
        keras.config.set_dtype_policy("float32")
    return learner


def separator():
    return sepssl.Separator(3, sepssl.STFTBasis(32, 16), tdcn(), "uniform", sample_rate=4000)


def two_sources():
    return sepssl.Separator(2, sepssl.STFTBasis(32, 16), tdcn(), "uniform", sample_rate=4000)


def encoder_and_front_end():
    """The front end draws its own numbers; batches bring none."""
    mel = log_mel()
    views = {"mixture_mixture": 1.0, "example_mixing": 0.5, "time_width": 9, "frequency_width": 5}
    encoder = sepssl.Encoder(sepssl.SmallBackbone(5, width=2), mel)
    return {"encoder": encoder, "front_end": sepssl.FrontEnd(mel, **views)}


LEARNERS = [
    LearnerCase(
        sepssl.SeparatorLearner,
        lambda: {
            "separator": separator(),
            "num_mixtures": 2,
            "signal_loss": "snr",
            "search": "least_squares",
            "sparsity_weight": 0.5,
            "covariance_weight": 0.25,
            "clip_norm": 2.0,
            "gradient_accumulation_steps": 2,
        },
        {"recordings": (800,)},
    ),
    LearnerCase(
        sepssl.SeparatorLearner,
        lambda: {
            "separator": two_sources(),
            "objective": "remixit",
            "signal_loss": "snr",
            "sparsity_weight": 0.5,
            "penalty_ramp_steps": 10,
            "silent_weight": 0.5,
            "silent_max_snr": 20.0,
            "average_decay": 0.9,
            "kept_weights": "average",
            "seed": 3,
        },
        {"recordings": (800,)},
        "remixit",
    ),
    LearnerCase(
        sepssl.SimilarityLearner,
        lambda: {
            **encoder_and_front_end(),
            "similarity_weight": 0.5,
            "coincidence_weight": 2.0,
            "temperature": 0.3,
            "learn_temperature": True,
            "projection_size": 3,
            "hidden_size": 7,
            "clip_norm": 2.0,
        },
        {"mixtures": (2, PATCH)},
    ),
    LearnerCase(
        sepssl.SupervisedLearner,
        lambda: {**encoder_and_front_end(), "num_classes": 3, "clip_norm": 2.0},
        {"mixtures": (2, PATCH), "labels": (3,)},
    ),
]
