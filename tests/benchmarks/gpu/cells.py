"""The models of a table's row, one for each seed, trained and used side by side."""

import functools
import json
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import keras
import numpy as np
from ml_collections import ConfigDict

from sepssl.data.splits import SPLITS
from sepssl.evaluation.scene_retrieval import AUDIBLE_DB
from sepssl.separation.build import make_separator
from sepssl.training.batches import ViewBatches
from sepssl.training.encoder import TRUE_SOURCES, _make_learner
from sepssl.training.loop import loop_settings
from sepssl.weights import model_file
from tests.benchmarks.gpu.program import STEPS_PER_CALL, Program
from tests.benchmarks.gpu.scenes import FULL_SCALE, SAMPLES
from tests.benchmarks.gpu.seeds import PART, Seed


def one_by_one(function: Callable, *values):
    """As `jax.vmap(function)(*values)`, whose convolutions with weights of their own are slow."""
    if len(jax.tree.leaves(values)[0]) == 1:
        alone = function(*jax.tree.map(lambda value: value[0], values))
        return jax.tree.map(lambda value: value[None], alone)
    return jax.lax.map(lambda parts: function(*parts), values)


class Stored:
    """Stands for a store of clips of one length, of which only that matters."""

    def __init__(self, count: int, rows: int):
        self.count, self.rows = count, rows

    def __len__(self):
        return self.count

    def num_samples(self, index: int) -> int:
        return SAMPLES

    def num_rows(self, index: int) -> int:
        return self.rows


class Draws(ViewBatches):
    """What `ViewBatches` draws, with the numbers of clips instead of their sound."""

    def _patches(self, indices, starts, drawn):
        return {"indices": np.array(indices, np.int32)}


@functools.lru_cache(maxsize=64)
def draw(seed, steps, batch_size, num_clips, patch, distance, overlap, uniforms, channels):
    """ "indices" [steps, batch], "starts" [steps, batch, 2], "uniforms" [steps, batch, numbers]."""
    stores = [Stored(num_clips, 1)] if channels else []
    mixtures = Stored(num_clips, 1)
    batches = Draws(mixtures, stores, batch_size, patch, distance, overlap, uniforms, seed)
    drawn = [batches.load(step) for step in range(steps)]
    return {key: np.stack([d[key] for d in drawn]) for key in ("indices", "starts", "uniforms")}


class EncoderProgram:
    """Training and use of one kind of encoder, compiled once.

    Args:
        config: of an encoder of this kind.
        classes: of the labels, if it learns from them.
    """

    def __init__(self, config: ConfigDict, classes: int = 0):
        self.config = config
        self.classes = classes
        self.learner = self._make(config)
        self.encoder = self.learner.encoder
        self.front_end = self.learner.front_end
        settings = loop_settings(config.train)
        self.steps = settings["steps"]
        self.optimizer = keras.optimizers.Adam(settings["learning_rate"])
        self.optimizer.build(self.learner.trainable_variables)
        # Not in `compile`, which several threads are in: Keras's random numbers have one state.
        self._initial = {config.seed: self._values(self.learner)}
        self._embed = jax.jit(functools.partial(one_by_one, self._embedding))

    def _make(self, config):
        keras.utils.set_random_seed(config.seed)
        learner = _make_learner(config, (), self.classes)
        learner.build()
        return learner

    def _views(self, mixtures, channels, indices, starts):
        """A batch, without its uniform numbers."""
        patch = self.encoder.log_mel.patch_samples

        def crop(rows, index, start):
            part = jax.lax.dynamic_slice(rows, (index, 0, start), (1, rows.shape[1], patch))
            return part[0].astype(jnp.float32)

        crops = jax.vmap(jax.vmap(crop, (None, None, 0)), (None, 0, 0))
        batch = {"mixtures": crops(mixtures[:, None], indices, starts)[:, :, 0] / FULL_SCALE}
        if self.front_end.needs_channels:
            batch["channels"] = crops(channels, indices, starts)
        return batch

    def _loss(self, trained, others, batch):
        variables = self.learner.trainable_variables + self.learner.non_trainable_variables
        pairs = list(zip(variables, trained + others, strict=True))
        with keras.StatelessScope(state_mapping=pairs) as scope:
            loss, metrics = self.learner.loss_and_metrics(batch, training=True)
        after = [scope.get_current_value(v) for v in self.learner.non_trainable_variables]
        return loss, (after, metrics.get("contrastive_accuracy", loss))

    def _training(self, state, draws, mixtures, channels, labels):
        def step(state, drawn):
            trained, others, moments = state
            batch = self._views(mixtures, channels, drawn["indices"], drawn["starts"])
            batch["uniforms"] = drawn["uniforms"]
            if self.classes:
                batch["labels"] = labels[drawn["indices"]].astype(jnp.float32)
            (loss, (others, shown)), gradients = jax.value_and_grad(self._loss, has_aux=True)(
                trained, others, batch
            )
            trained, moments = self.optimizer.stateless_apply(moments, gradients, trained)
            return (list(trained), others, list(moments)), (loss, shown)

        return jax.lax.scan(step, state, draws)

    def _embedding(self, trained, others, waveforms):
        encoder = self.encoder
        variables = encoder.trainable_variables + encoder.non_trainable_variables
        pairs = list(zip(variables, trained + others, strict=True))
        with jax.default_matmul_precision("highest"), keras.StatelessScope(state_mapping=pairs):
            return encoder(waveforms)

    def _values(self, learner):
        groups = (learner.trainable_variables, learner.non_trainable_variables)
        return [
            [np.asarray(v.value) for v in group] for group in (*groups, self.optimizer.variables)
        ]

    def initial(self, configs):
        """Trainable variables of the learners, others, and moments, [models, ...] each."""
        for config in configs:
            if config.seed not in self._initial:
                self._initial[config.seed] = self._values(self._make(config))
        groups = zip(*(self._initial[config.seed] for config in configs), strict=True)
        return tuple([jnp.stack(same) for same in zip(*group, strict=True)] for group in groups)

    def draws(self, configs):
        """Of all steps, [models, steps, ...] each."""
        drawn = [
            draw(
                config.seed,
                self.steps,
                config.train.batch_size,
                config.data.num_clips,
                self.encoder.log_mel.patch_samples,
                round(config.views.max_distance_seconds * config.data.sample_rate),
                config.views.overlap,
                self.front_end.num_uniforms,
                self.front_end.needs_channels,
            )
            for config in configs
        ]
        return {key: np.stack([d[key] for d in drawn]) for key in drawn[0]}

    def compile(self, models: int, clips: int, channels: int, classes: int) -> None:
        """The training, for so many models, clips, channels of a clip, and classes."""

        def shape(kind, *sizes):
            return jax.ShapeDtypeStruct((models, *sizes), kind)

        batch, numbers = self.config.train.batch_size, self.front_end.num_uniforms
        draws = {
            "indices": shape(jnp.int32, self.steps, batch),
            "starts": shape(jnp.int32, self.steps, batch, 2),
            "uniforms": shape(jnp.float32, self.steps, batch, numbers),
        }
        state = jax.tree.map(lambda v: shape(v.dtype, *v.shape[1:]), self.initial([self.config]))
        needed = self.front_end.needs_channels
        self._train = (
            jax.jit(functools.partial(one_by_one, self._training), donate_argnums=0)
            .lower(
                state,
                draws,
                shape(jnp.int16, clips, SAMPLES),
                shape(jnp.float16, clips, channels, SAMPLES) if needed else None,
                shape(jnp.int8, clips, classes),
            )
            .compile()
        )

    def train(self, configs, mixtures, channels, labels):
        """Trained weights of the encoders, and loss and accuracy over the last steps."""
        state, logs = self._train(
            self.initial(configs), self.draws(configs), mixtures, channels, labels
        )
        return self.of_encoder(state), [np.asarray(log[:, -100:].mean(1)).round(3) for log in logs]

    def of_encoder(self, state):
        """Its part of a learner's variables, trainable ones and others."""
        learner, encoder = self.learner, self.encoder
        variables = learner.trainable_variables + learner.non_trainable_variables
        found = {id(v): value for v, value in zip(variables, state[0] + state[1], strict=True)}
        groups = (encoder.trainable_variables, encoder.non_trainable_variables)
        return [[found[id(v)] for v in group] for group in groups]

    def embed(self, weights, waveforms):
        """float32 [models, clips, dim] of [models, clips, samples]."""
        return in_parts(lambda part: self._embed(*weights, part), waveforms)


def in_parts(function: Callable, waveforms) -> np.ndarray:
    """A function of [models, PART, samples] for any number of clips."""
    count, found = waveforms.shape[1], []
    for first in range(0, count, PART):
        part = waveforms[:, first : first + PART]
        part = jnp.pad(part, ((0, 0), (0, PART - part.shape[1]), (0, 0)))
        found.append(function(part.astype(jnp.float32)))
    return np.concatenate([np.asarray(part) for part in found], axis=1)[:, :count]


class SeedModels:
    """Separators and encoders of some seeds, as many scenes in each.

    Args:
        config: as in configs/real_ablation.py.
        seeds: their sounds, complete.
        say: prints.
    """

    def __init__(self, config: ConfigDict, seeds: list[Seed], say: Callable[..., None]):
        self.config, self.seeds, self.say = config, seeds, say
        self.programs: dict[str, EncoderProgram] = {}
        self.states: dict[int, list] = {}
        self.classes = seeds[0].clips["recordings"].labels.shape[1]
        self._separator = make_separator(config.separator.separator, 16000)
        self._separator.build((None, None))

    def load(self) -> None:
        """Puts the sounds, when they are complete, where models are trained."""
        self.sources = jax.device_put(np.stack([s.sounds["recordings"] for s in self.seeds]))
        self.mixtures = jnp.sum(self.sources, axis=2, dtype=jnp.int16)
        self.sounds = {
            name: _stacked([s.sounds[name] for s in self.seeds])
            for name in (*SPLITS, "queries", "scenes")
        }
        scenes = self.sounds["scenes"]
        self.separated = {"sources": scenes[:, :, 1:]}
        self.audible = {"sources": _audible(scenes[:, :, 1:], scenes[:, :, :1])}

    def train_separators(self) -> None:
        """The seeds' own, whose weights are kept by step, and the channels of scenes."""
        train = self.config.separator.train
        clips = self.sources.shape[1]
        names = [str(seed.seed) for seed in self.seeds]
        ranges = {name: (i * clips, (i + 1) * clips) for i, name in enumerate(names)}
        models = [
            {"name": name, "seed": int(name), "pool": name, "learning_rate": train.learning_rate}
            for name in names
        ]
        spec = {"dtype": "float32", "mixtures": train.batch_size // 2, "models": models}
        program = Program(spec, ranges)
        scenes = jnp.reshape(self.sources, (-1, *self.sources.shape[2:]))
        program.compile(len(scenes))
        kept = {step for step in self.config.states.values() if isinstance(step, int)}
        for step in range(0, train.steps + 1, STEPS_PER_CALL):
            if step in kept:
                self.states[step] = [
                    [np.asarray(w[index]) for w in program.state[0]] for index in range(len(models))
                ]
            if step < train.steps:
                program.advance(train.steps, scenes)
        self.say(f"separators: loss {np.asarray(program.losses).round(2)}")
        scenes, state = self.sounds["scenes"][:, :, 0], self.config.retrieval.state
        channels = [self._channels(i, state, scenes[i]) for i in range(len(self.seeds))]
        self.separated["channels"] = jnp.stack(channels)
        self.audible["channels"] = _audible(self.separated["channels"], scenes[:, :, None])

    def _channels(self, index: int, name: str, waveforms) -> jax.Array:
        """float16 [clips, channels, samples], by a state of a seed's separator or another one."""
        state = self.config.states[name]
        if isinstance(state, str):
            return channels_of(load_separator(state), None, waveforms)
        return channels_of(self._separator, self.states[state][index], waveforms)

    def _row_channels(self, row: dict, count: int):
        """float16 [seeds, clips, channels, SAMPLES]; None if views need none."""
        (name,) = row.get("separators", (None,))
        if name is None:
            return None
        found = []
        for index in range(count):
            if name == TRUE_SOURCES:
                found.append(_sources(self.sources[index], row.get("leak_db")))
            else:
                mixtures = self.mixtures[index].astype(jnp.float32) / FULL_SCALE
                found.append(self._channels(index, name, mixtures))
        return jnp.stack(found)

    def _count(self, row: dict) -> int:
        """The package's separators have heard what is tested by other seeds than the first."""
        names = row.get("separators", ())
        named = [name for name in names if isinstance(self.config.states.to_dict().get(name), str)]
        return 1 if named else len(self.seeds)

    def _configs(self, row: dict) -> list[ConfigDict]:
        return [seed.cells.encoder_stage(row) for seed in self.seeds[: self._count(row)]]

    def program(self, row: dict) -> EncoderProgram:
        """Of a row, the same for all rows of its kind."""
        configs = self._configs(row)
        parts = configs[0].to_dict()
        kind = [parts[part] for part in ("task", "views", "encoder", "objective", "train")]
        key = json.dumps([*kind, row.get("baseline"), len(configs), self._row_size(row)])
        if key not in self.programs:
            classes = self.classes if configs[0].task == "supervised" else 0
            self.programs[key] = EncoderProgram(configs[0], classes)
        return self.programs[key]

    def _row_size(self, row: dict) -> int:
        """Channels of a clip."""
        (name,) = row.get("separators", (None,))
        state = self.config.states.to_dict().get(name)
        return load_separator(state).num_sources if isinstance(state, str) else 4

    def compile(self, row: dict) -> Callable[[], None]:
        """What compiles the training of a row's encoders, unless another row's does."""
        known = len(self.programs)
        program = self.program(row)
        if len(self.programs) == known or "baseline" in row:
            return lambda: None
        clips = self.config.encoder.data.num_clips
        sizes = (self._count(row), clips, self._row_size(row), self.classes)
        return functools.partial(program.compile, *sizes)

    def embeddings(self, row: dict) -> Iterator[tuple[int, dict, dict]]:
        """Trains the encoders of a row; of each seed, embeddings and labels for its scores."""
        configs = self._configs(row)
        count = len(configs)
        program = self.program(row)
        baseline = row.get("baseline", "")
        if baseline == "log_mel_statistics":
            embed = functools.partial(in_parts, _statistics(program.encoder.log_mel))
        else:
            if baseline:
                weights = program.of_encoder(program.initial(configs))
            else:
                labels = [seed.clips["recordings"].labels for seed in self.seeds[:count]]
                channels = self._row_channels(row, count)
                weights, logs = program.train(
                    configs, self.mixtures[:count], channels, np.stack(labels).astype(np.int8)
                )
                del channels
                self.say(f"{row['name']}: loss {logs[0]}, accuracy {logs[1]}")
            embed = functools.partial(program.embed, weights)
        vectors = {name: embed(self.sounds[name][:count]) for name in (*SPLITS, "queries")}
        vectors["scene"] = embed(self.sounds["scenes"][:count, :, 0])
        for name, channels in self.separated.items():
            flat = jnp.reshape(channels[:count], (count, -1, SAMPLES))
            rows = np.reshape(embed(flat), (*channels[:count].shape[:3], -1))
            rows = np.where(self.audible[name][:count, ..., None], rows, np.nan)
            mixtures = vectors["scene"][:, :, None]
            vectors[f"scene_{name}"] = np.concatenate([mixtures, rows], axis=2)
        self.say(f"{row['name']}: embedded")
        for index, seed in enumerate(self.seeds[:count]):
            labels = {name: np.asarray(clips.labels) for name, clips in seed.clips.items()}
            own = {name: vector[index] for name, vector in vectors.items()}
            own["queries"] = own["queries"][: len(labels["queries"])]
            yield seed.seed, own, labels


def _stacked(sounds: list[np.ndarray]) -> jax.Array:
    """Of all seeds; where there are fewer clips, silent ones follow."""
    most = max(map(len, sounds))
    return jax.device_put(
        np.stack([np.pad(s, ((0, most - len(s)), *[(0, 0)] * (s.ndim - 1))) for s in sounds])
    )


def _audible(channels, mixture) -> np.ndarray:
    """As `evaluate_scene_retrieval` has it."""

    def power(x):
        return np.asarray(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1), np.float64)

    return power(channels) >= np.maximum(power(mixture) * 10 ** (AUDIBLE_DB / 10), 1e-12)


def _sources(sources, leak_db) -> jax.Array:
    """True sources, float16; all others leak into each by so many dB."""
    sources = sources.astype(jnp.float16) / jnp.float16(FULL_SCALE)
    if leak_db is None:
        return sources
    mixture = jnp.sum(sources, axis=1, keepdims=True)
    there = jnp.any(sources != 0, axis=-1, keepdims=True)
    leaky = sources + jnp.float16(10 ** (leak_db / 20)) * (mixture - sources)
    return jnp.where(there, leaky, jnp.float16(0))


@functools.cache
def load_separator(name):
    """One that comes with the package; its own way of loading asks TensorFlow."""
    return keras.saving.load_model(model_file(name, "Separator"))


def channels_of(separator, weights, waveforms) -> jax.Array:
    """float16 [clips, channels, samples] of [clips, samples].

    With other weights than the separator's own, unless they are None.
    """
    if weights is None:
        weights = [v.value for v in separator.trainable_variables]
    separate = _separation(separator)
    parts = [waveforms[first : first + PART] for first in range(0, len(waveforms), PART)]
    return jnp.concatenate([separate(weights, part) for part in parts])


@functools.cache
def _separation(separator) -> Callable:
    def separate(weights, waveforms):
        pairs = list(zip(separator.trainable_variables, weights, strict=True))
        with jax.default_matmul_precision("highest"), keras.StatelessScope(state_mapping=pairs):
            return separator(waveforms).astype(jnp.float16)

    return jax.jit(separate)


def _statistics(log_mel) -> Callable:
    """As `log_mel_statistics`, of [models, clips, samples]."""

    def statistics(waveforms):
        mel = log_mel.spectrogram(waveforms)
        return jnp.concatenate([mel.mean(axis=1), mel.std(axis=1), mel.max(axis=1)], axis=-1)

    return jax.jit(jax.vmap(statistics))
