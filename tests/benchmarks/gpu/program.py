"""One shape of network, compiled once, and the models of it that are trained side by side."""

import time

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import ops
from scipy.optimize import linear_sum_assignment

import sepssl.separation.mixit
import sepssl.separation.permutation
from configs import separator_small
from sepssl.separation.build import make_separator
from sepssl.separation.mixit import mixit_loss, mixtures_of_mixtures
from sepssl.separation.permutation import pit_loss
from sepssl.separation.signal_losses import log_mse
from sepssl.separation.sparsity import activity_sparsity
from tests.benchmarks.gpu.scenes import FULL_SCALE, MAX_SOURCES, SAMPLES

STEPS_PER_CALL = 10
WARMUP_STEPS = 50.0
CLIP_NORM = 5.0
DECAY = 0.999  # of the moving average
CROP = 48000  # samples that are trained on
PART = 500  # of CROP
LOOKED_AT = 50  # validation scenes at once
# Of a model: learning rate, weights of the two losses and of a penalty that grows over a share of
# all steps, and the weight of silent references.
SETTINGS = {
    "learning_rate": 2e-3,
    "mixit": 1.0,
    "pit": 0.0,
    "sparsity": 0.0,
    "ramp": 0.0,
    "silent_weight": 1.0,
}


class InParts:
    """`keras.ops`, whose products of a few long rows are sums over parts of them.

    GPUs are slow at [4, 48000] times [48000, 4], which one of their processors does alone.
    """

    def __getattr__(self, name):
        return getattr(ops, name)

    def einsum(self, equation, x, y):
        assert equation in ("bmt,bpt->bmp", "bnt,bmt->bnm"), equation
        x, y = (jnp.reshape(value, (*value.shape[:2], -1, PART)) for value in (x, y))
        return jnp.sum(jnp.einsum("bmkt,bpkt->bkmp", x, y), axis=1)


sepssl.separation.mixit.ops = sepssl.separation.permutation.ops = InParts()


class Program:
    """Models of one shape, and their optimizers.

    Args:
        spec: of the plan: `separator` (what differs from configs/separator_small.py), `dtype`,
            `mixtures` and `supervised` (per batch, separated by MixIT and by PIT; either may be 0),
            `silent_max_snr`, and `models`, dicts of `name`, `seed`, `pool` (or the first and the
            last of several, with a + between) and settings.
        ranges: by name of a pool, its first and last scene.
    """

    def __init__(self, spec, ranges):
        self.models = spec["models"]
        self.mixtures = spec.get("mixtures", 0)
        self.supervised = spec.get("supervised", 0)
        self.silent_max_snr = spec.get("silent_max_snr", 30.0)
        config = separator_small.get_config().separator
        config.update(**spec.get("separator", {}))
        starts = []
        for model in self.models:
            keras.utils.set_random_seed(model["seed"])
            self.separator = make_separator(config, 16000, spec["dtype"])
            self.separator.build((None, None))
            starts.append([np.asarray(v.value) for v in self.separator.trainable_variables])
        loop_over_repeats(self.separator.tdcn)
        weights = [jnp.stack(same) for same in zip(*starts, strict=True)]
        # Weights, their moments, and the moving average.
        self.state = tuple([jnp.array(w) * factor for w in weights] for factor in (1, 0, 0, 1))
        pools = [model["pool"].split("+") for model in self.models]
        self.settings = {
            "salt": jnp.array([model["seed"] for model in self.models]),
            "first": jnp.array([ranges[pool[0]][0] for pool in pools]),
            "last": jnp.array([ranges[pool[-1]][1] for pool in pools]),
        } | {
            name: jnp.array([model.get(name, default) for model in self.models], jnp.float32)
            for name, default in SETTINGS.items()
        }
        self.key = jax.random.key(77)
        self.step = 0

    def separate(self, weights, mixtures):
        pairs = list(zip(self.separator.trainable_variables, weights, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return self.separator(mixtures, training=True)

    def loss(self, weights, settings, recordings, sources, done):
        """The mean over all mixtures, as `SeparatorLearner` has it."""
        mixtures = [jnp.sum(sources, axis=1)] if self.supervised else []
        if self.mixtures:
            references, of_recordings = mixtures_of_mixtures(recordings)
            mixtures = [of_recordings, *mixtures]
        estimates = self.separate(weights, jnp.concatenate(mixtures))
        losses = 0.0
        with jax.default_matmul_precision("highest"):
            if self.mixtures:
                loss, _ = mixit_loss(references, estimates[: self.mixtures])
                losses += settings["mixit"] * jnp.sum(loss)
            if self.supervised:
                loss, _ = pit_loss(
                    sources,
                    estimates[self.mixtures :],
                    log_mse,
                    settings["silent_weight"],
                    self.silent_max_snr,
                )
                losses += settings["pit"] * jnp.sum(loss)
        grown = jnp.minimum(done / jnp.maximum(settings["ramp"], 1e-6), 1.0)
        losses += grown * settings["sparsity"] * jnp.sum(activity_sparsity(estimates))
        return losses / (self.mixtures + self.supervised)

    def _update(self, weights, mean, square, average, settings, key, scenes, step, total):
        """A step of Adam for one model, on crops of scenes that it draws."""
        keys = jax.random.split(jax.random.fold_in(key, settings["salt"]))
        recordings, sources = (
            crops(key, scenes, count, settings["first"], settings["last"])
            for key, count in zip(keys, (2 * self.mixtures, self.supervised), strict=True)
        )
        loss, gradients = jax.value_and_grad(self.loss)(
            weights, settings, jnp.sum(recordings, axis=1), sources, step / total
        )
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        scale = jnp.where(jnp.isfinite(norm), jnp.minimum(1.0, CLIP_NORM / (norm + 1e-12)), 0.0)
        updates = step + 1.0
        cosine = (step - WARMUP_STEPS) / jnp.maximum(total - WARMUP_STEPS, 1.0)
        rate = settings["learning_rate"] * jnp.minimum(updates / WARMUP_STEPS, 1.0)
        rate *= 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(cosine, 0.0, 1.0))
        rate *= jnp.sqrt(1 - 0.999**updates) / (1 - 0.9**updates)
        decay = jnp.minimum(DECAY, updates / (updates + 9.0))
        new = []
        for w, m, s, a, g in zip(weights, mean, square, average, gradients, strict=True):
            clipped = jnp.nan_to_num(g) * scale
            m = 0.9 * m + 0.1 * clipped
            s = 0.999 * s + 0.001 * jnp.square(clipped)
            w = w - rate * m / (jnp.sqrt(s) + 1e-7)
            new.append((w, m, s, decay * a + (1.0 - decay) * w))
        return [list(column) for column in zip(*new, strict=True)], loss

    def compile(self, count):
        """Compiles for `count` scenes."""

        def steps(state, step, total, key, scenes):
            def one(carry, _):
                state, step, key = carry
                key, drawn = jax.random.split(key)
                axes = (0, 0, 0, 0, 0, None, None, None, None)
                state, loss = jax.vmap(self._update, axes)(
                    *state, self.settings, drawn, scenes, step, total
                )
                return (tuple(state), step + 1.0, key), loss

            (state, _, key), losses = jax.lax.scan(
                one, (state, step, key), None, length=STEPS_PER_CALL
            )
            return state, key, jnp.mean(losses, axis=0)

        def shape(n):
            return jax.ShapeDtypeStruct((n, MAX_SOURCES, SAMPLES), jnp.int16)

        number = jnp.float32(0)
        self._steps = (
            jax.jit(steps, donate_argnums=0)
            .lower(self.state, number, number, self.key, shape(count))
            .compile()
        )
        first = [weights[0] for weights in self.state[0]]
        self._pairs = jax.jit(self._pairwise).lower(first, shape(LOOKED_AT)).compile()

    def advance(self, total, scenes):
        """`STEPS_PER_CALL` steps."""
        self.state, self.key, self.losses = self._steps(
            self.state, jnp.float32(self.step), jnp.float32(total), self.key, scenes
        )
        self.step += STEPS_PER_CALL

    def seconds_per_step(self, scenes):
        """Measured, with a learning rate of next to nothing."""
        for calls in (1, 3):
            start = time.time()
            for _ in range(calls):
                self.advance(1e9, scenes)
            jax.block_until_ready(self.losses)
        self.step = 0
        return (time.time() - start) / calls / STEPS_PER_CALL

    def weights(self):
        """Names of the models, and the moving averages of their weights."""
        for index, model in enumerate(self.models):
            yield model["name"], [np.asarray(average[index]) for average in self.state[3]]

    def _pairwise(self, weights, sources):
        sources = sources.astype(jnp.float32) / FULL_SCALE
        mixtures = jnp.sum(sources, axis=1)
        estimates = self.separate(weights, mixtures)
        with jax.default_matmul_precision("highest"):
            products = jnp.einsum("bnt,bmt->bnm", sources, estimates)
            with_mixture = jnp.einsum("bnt,bt->bn", sources, mixtures)
        power, found, whole = (
            jnp.sum(jnp.square(x), axis=-1) for x in (sources, estimates, mixtures)
        )
        after = decibel(jnp.square(products), power[:, :, None] * found[:, None])
        return after, decibel(jnp.square(with_mixture), power * whole[:, None]), power, found

    def scores(self, scenes):
        """Models, and their scores on scenes, as `SeparationScores` has them."""
        for index, model in enumerate(self.models):
            average = [weights[index] for weights in self.state[3]]
            parts = [
                self._pairs(average, scenes[i : i + LOOKED_AT])
                for i in range(0, len(scenes) // LOOKED_AT * LOOKED_AT, LOOKED_AT)
            ]
            yield model, summary(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def summary(after, before, power, found):
    single, gains, surplus = [], [], []
    for b in range(len(after)):
        active = np.flatnonzero(power[b] > 0)
        sounds = found[b] > 0.01 * power[b][active].min()
        surplus.append(int(sounds.sum()) - len(active))
        rows, columns = linear_sum_assignment(after[b][active], maximize=True)
        values, heard = after[b][active][rows, columns], sounds[columns]
        if len(active) == 1:
            single.extend(values[heard])
        else:
            gains.extend((values - before[b][active][rows])[heard])
    over = float(np.mean(np.array(surplus) > 0))
    return {"1S": float(np.mean(single)), "MSi": float(np.mean(gains)), "over": over}


def decibel(product, powers):
    """SI-SNR of two signals, in float32."""
    share = jnp.minimum(product / jnp.maximum(powers, 1e-30), 1.0)
    return 10.0 * jnp.log10((share + 1e-8) / jnp.maximum(1.0 - share, 1e-8))


def crops(key, scenes, count, first, last):
    """`count` crops of scenes from `first` to `last`: [count, sources, CROP]."""
    of_scene, of_start = jax.random.split(key)
    index = jax.random.randint(of_scene, (count,), first, last)
    start = jax.random.randint(of_start, (count,), 0, SAMPLES - CROP + 1)

    def crop(i, s):
        return jax.lax.dynamic_slice(scenes, (i, 0, s), (1, MAX_SOURCES, CROP))[0]

    return jax.vmap(crop)(index, start).astype(jnp.float32) / FULL_SCALE


def loop_over_repeats(tdcn):
    """Compiles one run of blocks, with its dilations, instead of all."""
    count = tdcn.dilations_per_repeat

    def blocks(x, weights, first, end, training):
        stacked = [jnp.reshape(w, (tdcn.repeats, count, *w.shape[1:])) for w in weights]

        def run(x, parts):
            for block in range(count):
                x = tdcn._block(tdcn._between, 2**block, x, *(part[block] for part in parts))
            return x, None

        return jax.lax.scan(run, x, stacked)[0]

    object.__setattr__(tdcn, "_blocks", blocks)
