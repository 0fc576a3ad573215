"""Small runs of both stages that the tests start in processes of their own.

    python toy.py STAGE WORKDIR [--steps=N] [--cpus=N] [--die-after=STEP] [--nan-at=STEP]

Prints one JSON line: a digest of all variables, and the logged losses.
"""

import argparse
import hashlib
import json
import os
import signal

import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("stage")
parser.add_argument("workdir")
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--cpus", type=int, default=1)
parser.add_argument("--die-after", type=int)
parser.add_argument("--nan-at", type=int)
arguments = parser.parse_args()
if arguments.cpus > 1:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * arguments.cpus,
    )
tf.config.experimental.enable_op_determinism()

import keras  # noqa: E402

from sepssl.audio.log_mel import LogMel  # noqa: E402
from sepssl.representation import Encoder, SmallBackbone  # noqa: E402
from sepssl.separation import TDCN, Separator, STFTBasis  # noqa: E402
from sepssl.training.checkpoints import RunFolder  # noqa: E402
from sepssl.training.loop import LearningRate, train  # noqa: E402
from sepssl.training.separator_learner import SeparatorLearner  # noqa: E402
from sepssl.training.similarity_learner import SimilarityLearner  # noqa: E402
from sepssl.training.strategy import make_strategy  # noqa: E402
from sepssl.views import FrontEnd  # noqa: E402


class Separators:
    def load(self, step):
        rng = np.random.default_rng(step)
        recordings = rng.normal(size=(8, 800)).astype(np.float32)
        if step == arguments.nan_at:
            recordings[0, 0] = np.nan
        return {"recordings": recordings}

    def names(self, step):
        return [f"clip{step}-{i}.wav" for i in range(8)]


class Encoders(Separators):
    def load(self, step):
        rng = np.random.default_rng(step)
        return {
            "mixtures": rng.normal(size=(8, 2, 15600)).astype(np.float32),
            "channels": rng.normal(size=(8, 2, 2, 15600)).astype(np.float32),
            "uniforms": rng.random((8, FRONT_END.num_uniforms), np.float32),
        }


def separator_learner():
    return SeparatorLearner(Separator(3, STFTBasis(64, 32), TDCN(8, 12, 2, 2)), clip_norm=1.0)


FRONT_END = FrontEnd(LogMel(), 0.25, 0.5, 0.25, example_mixing=0.5, equalization_db=6.0)


def encoder_learner():
    encoder = Encoder(SmallBackbone(8, width=2))
    return SimilarityLearner(encoder, FRONT_END, learn_temperature=True, clip_norm=0.5)


made = []


def make_learner():
    made.append(separator_learner() if arguments.stage == "separator" else encoder_learner())
    return made[-1]


def die(product):
    """Evaluation at a kept state: kill -9, where a finished process would go on."""
    if made[-1].optimizer.iterations.numpy() == arguments.die_after:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


keras.utils.set_random_seed(0)
train(
    RunFolder(arguments.workdir, {"stage": arguments.stage}),
    make_strategy("mirrored" if arguments.cpus > 1 else "default"),
    make_learner,
    Separators() if arguments.stage == "separator" else Encoders(),
    die,
    steps=arguments.steps,
    learning_rate=LearningRate(1e-3, "cosine", warmup_steps=2, steps=arguments.steps),
    log_every=1,
    checkpoint_every=2,
    state_steps=(0, 3),
)
learner = made[-1]
digest = hashlib.sha256()
for variable in [*learner.variables, *learner.optimizer.variables]:
    digest.update(np.asarray(variable).tobytes())
with open(os.path.join(arguments.workdir, "metrics.jsonl")) as file:
    records = [json.loads(line) for line in file]
weights = {v.path: np.asarray(v).tolist() for v in learner.variables}
timed = ("steps_per_second", "usage/")
metrics = [{k: v for k, v in r.items() if not k.startswith(timed)} for r in records]
print(json.dumps({"digest": digest.hexdigest(), "metrics": metrics, "weights": weights}))
