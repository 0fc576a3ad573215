"""One training loop for both stages, and for your own data."""

import collections
import contextlib
import errno
import functools
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from ml_collections import ConfigDict

from sepssl.errors import InputError, OutputError, WorkerLost
from sepssl.files import write_failure
from sepssl.progress import Progress
from sepssl.serialization import save_model
from sepssl.training.allocation import keep_freed_memory
from sepssl.training.checkpoints import KEPT_CHECKPOINTS, Resume, RunFolder
from sepssl.training.input import Batches, DatasetBatches, distribute
from sepssl.training.learner import Learner
from sepssl.training.monitors import FiniteGuard, MetricsLog, TrainingDiverged
from sepssl.training.precision import Float32Copy
from sepssl.training.signals import signals_deferred, unsaved_work
from sepssl.training.strategy import LOSSES, lost_workers_named, require_same_step, worker_of
from sepssl.training.usage import Usage, describe_usage, gemm_peak

SCHEDULES = ("constant", "cosine")
COMMON_MINIMUMS = {  # of the values that the configurations of both stages have
    "seed": 0,
    "data.seed": 0,
    "data.sample_rate": 1,
    "data.num_clips": 1,
    "data.clip_seconds": 0.1,
    "train.steps": 1,
    "train.clip_norm": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
}


@keras.saving.register_keras_serializable(package="sepssl")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant or a half cosine to zero at the last step; in phases, again.

    Unlike Keras's `CosineDecay`, whose warm-up starts with an update at the initial rate and whose
    cosine starts one update later: no arguments of it reproduce the rates of finished runs.

    Args:
        rate: highest learning rate.
        schedule: one of `SCHEDULES`.
        warmup_steps: update n < `warmup_steps` is made at `(n + 1) / warmup_steps` of the rate.
        steps: total number of updates.
        phases: ends of earlier phases, ascending and below `steps`: the schedule ended at each, and
            starts again from there, with a warm-up of at most half of a phase.
    """

    def __init__(
        self,
        rate: float,
        schedule: str,
        warmup_steps: int,
        steps: int,
        phases: Sequence[int] = (),
    ):
        self.rate = rate
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.steps = steps
        self.phases = tuple(phases)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        if not self.phases:
            return self._in_phase(step, self.warmup_steps, self.steps)
        rates = []
        for start, end in itertools.pairwise((0, *self.phases, self.steps)):
            warmup_steps = min(self.warmup_steps, (end - start) // 2)
            rates.append((start, self._in_phase(step - start, warmup_steps, end - start)))
        rate = rates[0][1]
        for start, later in rates[1:]:
            rate = ops.where(step < start, rate, later)
        return rate

    def _in_phase(self, step, warmup_steps: int, steps: int):
        factor = ops.minimum((step + 1.0) / max(warmup_steps, 1), 1.0)
        if self.schedule == "cosine":
            done = (step - warmup_steps) / max(steps - warmup_steps, 1)
            factor = factor * 0.5 * (1.0 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))
        return self.rate * factor

    def get_config(self):
        return {
            "rate": self.rate,
            "schedule": self.schedule,
            "warmup_steps": self.warmup_steps,
            "steps": self.steps,
            "phases": self.phases,
        }


def train(
    run: RunFolder,
    strategy: tf.distribute.Strategy,
    make_learner: Callable[[], Learner],
    batches: Batches | DatasetBatches,
    evaluate: Callable[[keras.Model], dict[str, float]] | None,
    steps: int,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    log_every: int,
    checkpoint_every: int,
    state_steps: Collection[int],
    evaluate_every: int = 0,
    warnings: Iterable[Callable[[dict[str, float]], str | None]] = (),
    verbose: bool = True,
    example: Callable[[keras.Model], dict[str, np.ndarray]] | None = None,
    picture: bytes | None = None,
    memory_advice: str = "smaller batches",
    keep_checkpoints: int = KEPT_CHECKPOINTS,
    finish: Callable[[keras.Model], keras.Model] | None = None,
) -> keras.Model:
    """Trains a learner, from the start or from where the run stopped.

    Steps count from 0; a state or checkpoint of step n is the result of n updates. Ctrl-C, or a
    signal whose handler raises SystemExit, has the steps done so far saved. The process keeps
    freed memory from then on (`keep_freed_memory`).

    Args:
        run: where everything is written.
        strategy: data parallelism.
        make_learner: makes the learner, called in the strategy's scope. One that is compiled keeps
            its optimizer.
        batches: the training data.
        evaluate: product -> metrics, called at every kept state and every `evaluate_every` steps.
        steps: total number of steps.
        learning_rate: of Adam, the optimizer of a learner that is not compiled.
        log_every, checkpoint_every: in steps. The log contains means since the previous log, and
            "update_norm", how far the last step moved the weights; with the last step also what
            the steps took, as `Usage.report` names it, the first one left out.
        state_steps: steps at which the product is kept, 0 to `steps`; the last is always kept as
            `final.keras`, as `finish` makes it. All are kept in float32, whatever the precision of
            training.
        evaluate_every: in steps; 0 for kept states only.
        warnings: logged metrics -> a problem, or None; called after the warm-up. The first problem
            that each reports is printed.
        verbose: whether to show progress and warnings.
        example: product -> sounds, name -> float32 [samples] at the product's sample rate; they are
            written to TensorBoard and beside every kept state.
        picture: a PNG for TensorBoard, of what is trained on.
        memory_advice: what to change where a step needs more memory than there is.
        keep_checkpoints: how many of the latest ones are kept, 1 or more.
        finish: product -> what is kept of it as `final.keras`; states are kept as they are.

    Returns:
        The trained product, in float32, as it was before `finish`.

    Raises:
        TrainingDiverged: if loss or gradient is not finite, or `evaluate` raises it: with the step.
        OutputError: if something cannot be written.
        WorkerLost: if another of several workers has ended or, for the chief, been asked to.
        InputError: if another process is training in the same folder, a step needs more memory
            than there is, `state_steps` are not steps of the run, or workers have restored
            different checkpoints.
    """
    _require_states("state_steps", state_steps, steps)
    keep_freed_memory()
    warmup_steps = getattr(learning_rate, "warmup_steps", 0)
    several = worker_of(strategy)[1] > 1
    with run.lock(), _exhaustion_named(run, memory_advice), lost_workers_named(strategy):
        with strategy.scope():
            learner = make_learner()
            learner.build()
            if not learner.compiled:
                learner.compile(
                    optimizer=keras.optimizers.Adam(learning_rate),
                    jit_compile=False,  # decided below, for the step as a whole
                )
            learner.optimizer.build(learner.trainable_variables)
            resume = Resume(run, learner, keep_checkpoints)
        # Of several workers the chief alone evaluates, whom the others await at the next step.
        with contextlib.nullcontext() if several else strategy.scope():
            product = Float32Copy(learner.product, apart=several)
        if not run.chief:
            evaluate = example = picture = None
            state_steps, evaluate_every = (), 0
        done = first = resume.restore()
        require_same_step(strategy, done)
        run.record_versions(done)
        log = MetricsLog(run.path, done)
        guard = FiniteGuard(batches.names)
        if picture and done == 0:
            log.write_picture(0, "views", picture)

        # XLA fails under strategies that replicate.
        replicating = (
            tf.distribute.MirroredStrategy,
            tf.distribute.MultiWorkerMirroredStrategy,
            tf.distribute.TPUStrategy,
        )
        single = not isinstance(strategy, replicating)

        @tf.function(jit_compile=learner.gains_from_xla and single, autograph=False)
        def train_step(batch, leaving):
            def update(batch):
                metrics = learner.update(batch)
                if several:
                    context = tf.distribute.get_replica_context()
                    own = tf.identity(leaving)  # on this replica's device
                    metrics["leaving"] = context.all_reduce(tf.distribute.ReduceOp.SUM, own)
                return metrics

            metrics = strategy.run(update, (batch,))
            if several:  # they are the same everywhere
                return {k: strategy.experimental_local_results(v)[0] for k, v in metrics.items()}
            return {k: strategy.reduce("MEAN", v, axis=None) for k, v in metrics.items()}

        def evaluation_due(step: int) -> bool:
            regular = step > 0 and evaluate_every > 0 and step % evaluate_every == 0
            return step in state_steps or regular

        def evaluate_and_keep(step: int) -> None:
            try:
                metrics = evaluate(product()) if evaluate else {}
            except TrainingDiverged as error:
                last = f"last good checkpoint: {resume.latest_before(step) or 'none'}"
                hint = f"{last}; try a lower train.learning_rate" if step else "before training"
                raise TrainingDiverged(f"step {step}: {error}; {hint}") from None
            metrics = {f"validation/{k}": v for k, v in metrics.items()}
            if step in state_steps:
                run.keep_state(product(), step, metrics)
                if example:
                    sounds, rate = example(product()), product().sample_rate
                    run.keep_sounds(np.stack(list(sounds.values())), rate, step)
                    log.write_sounds(step, sounds, rate)
            if metrics:
                log.write(step, metrics)

        # A run may have been stopped between a checkpoint and the evaluation of the same step.
        if evaluation_due(done) and done not in log.validated and not run.final.exists():
            evaluate_and_keep(done)
        parts: Iterable = ()
        if done >= steps:
            start = f"{run.path}: finished already"
        else:
            doing = f"continues after step {done}" if done else f"{steps} steps"
            start = f"{run.path}: {doing}; compiling the first step, please wait"
            if isinstance(batches, DatasetBatches):
                parts = batches.distribute(strategy, done, steps)
            else:
                parts = distribute(strategy, batches.load, done, steps)
        silent = list(warnings)
        usage = Usage()
        with (
            Progress("training", steps, "step", done, start=start, verbose=verbose) as progress,
            contextlib.ExitStack() as unsaved,
        ):
            started, started_at = time.perf_counter(), done
            signalled: list = []  # at a worker that is not the chief
            # Of the last two steps, how many workers were to leave; read when a step is done, not
            # to wait for the one under way.
            leaving: collections.deque[tf.Tensor] = collections.deque(maxlen=2)

            def used(batch: Any) -> dict[str, float]:
                part = strategy.experimental_local_results(batch)[0]
                examples, flop = learner.work(part)
                peak = gemm_peak(learner.product.compute_dtype) if math.isfinite(flop) else flop
                replicas = strategy.num_replicas_in_sync
                found = usage.report(examples * replicas, flop * replicas, peak)
                if found:
                    progress.note(f"{run.path}: {describe_usage(found)}")
                return found

            def make_step(after: int, batch: Any) -> None:
                nonlocal started, started_at, done
                checkpoint_due = (
                    after % checkpoint_every == 0 or after == steps or after in state_steps
                )
                log_due = after % log_every == 0 or checkpoint_due
                weights = [v.value for v in learner.trainable_variables] if log_due else []
                before = [tf.identity(weight) for weight in weights]
                made = train_step(batch, tf.constant(float(bool(signalled))))
                if several:
                    leaving.append(made.pop("leaving"))
                guard.add(after - 1, made)
                progress.update()
                if log_due:
                    metrics = guard.flush(resume.latest)
                    moved = [now - then for now, then in zip(weights, before, strict=True)]
                    metrics["update_norm"] = float(tf.linalg.global_norm(moved))
                    now = time.perf_counter()
                    metrics["steps_per_second"] = (after - started_at) / (now - started)
                    if after == steps:
                        metrics |= used(batch)
                    started, started_at = now, after
                    log.write(after, metrics)
                    progress.update(0, **{name: metrics[name] for name in learner.shown_metrics})
                    for warning in list(silent) if after > warmup_steps else ():
                        if problem := warning(metrics):
                            silent.remove(warning)
                            progress.note(f"step {after}: {problem}")
                if checkpoint_due:
                    resume.save(after)
                done = after

            try:
                # Not to the end of the data, on which several workers would have to agree.
                batches_left = itertools.islice(parts, max(steps - first, 0))
                for after, batch in enumerate(usage.batches(batches_left), start=first + 1):
                    # Not the first, which takes long to compile: nothing would be lost with it.
                    with signals_deferred() if done > first else contextlib.nullcontext():
                        usage.step(functools.partial(make_step, after, batch))
                    if after == first + 1:
                        usage.restart()
                    if after == first + 1 and run.chief:
                        unsaved.enter_context(unsaved_work())
                    elif after == first + 1:  # it waits for the chief to save and to leave
                        signalled = unsaved.enter_context(signals_deferred(instead_of=LOSSES))
                    if run.chief and len(leaving) == 2 and leaving[0] > 0:
                        raise WorkerLost(
                            f"{run.path}: another worker was stopped; start all of them again to "
                            f"continue after step {done}"
                        )
                    if evaluation_due(after):
                        paused = time.perf_counter()
                        evaluate_and_keep(after)
                        started += time.perf_counter() - paused
            except (KeyboardInterrupt, SystemExit, WorkerLost):
                with signals_deferred():  # whoever signals may do so again
                    if done > int(resume.step.numpy()):
                        log.write(done, guard.flush(resume.latest))
                        resume.save(done)
                raise
        if run.chief and not run.final.exists():
            save_model(finish(product()) if finish else product(), run.final)
        return product()


@contextlib.contextmanager
def _exhaustion_named(run: RunFolder, memory_advice: str) -> Iterator[None]:
    """Raises InputErrors where memory or the disk of a run is full."""
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        if os.strerror(errno.ENOSPC) in str(error):  # the same kind, to TensorFlow
            raise OutputError(f"{run.path}: {write_failure(error)}") from error
        wanted = re.search(r"shape ?(\[.*?\]|\(.*?\))|allocat\w+ [\d.]+ ?\w+", str(error))
        raise InputError(
            f"{run.path}: a step does not fit into memory"
            + (f" ({wanted[0]})" if wanted else "")
            + f"; expected {memory_advice}"
        ) from error


def train_on_dataset(
    dataset: tf.data.Dataset,
    make_learner: Callable[[], Learner],
    workdir: str | os.PathLike,
    steps: int,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
    log_every: int = 20,
    checkpoint_every: int = 500,
    state_steps: Collection[int] = (),
    evaluate: Callable[[keras.Model], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    strategy: tf.distribute.Strategy | None = None,
    settings: Mapping[str, Any] | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Trains on your own dataset, with checkpoints; called again, it resumes the run.

    The dataset is repeated as often as needed, and a resumed run skips the batches already seen.
    That is exact to the last bit if the dataset yields the same batches whenever it is read from
    the start: if nothing in it is random, or every random operation is seeded (`shuffle(...,
    seed=0)` and `keras.utils.set_random_seed`), or if it is a function of the step,
    `tf.data.Dataset.range(steps).map(batch_of_step)`, where skipping takes no time.

    Args:
        dataset: batches of one size, in the form that the learner takes.
        make_learner: makes the learner.
        workdir: the run's folder, new or to be continued; see `RunFolder`.
        steps, learning_rate, log_every, checkpoint_every, state_steps, evaluate, evaluate_every:
            as `train`'s.
        strategy: data parallelism; one device by default. The batch is split over the replicas.
        settings: whatever else the run depends on, as plain values. They are recorded, and a run
            with other settings is not continued.
        verbose: whether to show progress.

    Returns:
        The trained product.

    Raises:
        InputError: as `train`; if the dataset is empty, or `workdir` belongs to another run.

    Example:
        >>> batches = tf.data.Dataset.from_tensor_slices(waveforms).batch(8, drop_remainder=True)
        >>> make = lambda: SeparatorLearner(Separator(4, STFTBasis(), TDCN(16, 32, 2, 1)))
        >>> separator = train_on_dataset(batches, make, "runs/mine", steps=100)
    """
    schedule = keras.optimizers.schedules.LearningRateSchedule
    if isinstance(learning_rate, schedule):
        rate = keras.optimizers.schedules.serialize(learning_rate)
    else:
        rate = learning_rate
    batches = DatasetBatches(dataset)
    run = RunFolder(workdir, {**(settings or {}), "steps": steps, "learning_rate": rate}, verbose)
    return train(
        run,
        strategy or tf.distribute.get_strategy(),
        make_learner,
        batches,
        evaluate,
        steps,
        learning_rate,
        log_every,
        checkpoint_every,
        state_steps,
        evaluate_every,
        verbose=verbose,
    )


def _require_states(name: str, state_steps: Collection[int], steps: int) -> None:
    for step in state_steps:
        if not 0 <= step <= steps:
            raise InputError(
                f"{name}: {step} is not one of the run's steps, 0 to {steps}; expected some "
                "of these, or () for the default"
            )


def loop_settings(config: ConfigDict, phases: Sequence[int] = ()) -> dict:
    """The arguments of `train` that `config.train` sets.

    The warm-up lasts `config.train.warmup_steps`, but at most half of all steps.

    Args:
        config: `config.train`.
        phases: ends of earlier phases of the run, see `LearningRate`; states are kept there too.

    Raises:
        InputError: if one of them is out of range.
    """
    if config.schedule not in SCHEDULES:
        raise InputError(f"train.schedule={config.schedule!r}: expected {' or '.join(SCHEDULES)}")
    if not config.learning_rate > 0:
        raise InputError(f"train.learning_rate={config.learning_rate}: expected above 0")
    if config.warmup_steps < 0:
        raise InputError(f"train.warmup_steps={config.warmup_steps}: expected 0 or more")
    # So that setting the steps suffices for a short run; half is our choice.
    warmup_steps = config.warmup_steps if phases else min(config.warmup_steps, config.steps // 2)
    gradient_accumulation_steps(config)
    keys = ("steps", "log_every", "checkpoint_every")
    _require_states("train.state_steps", config.state_steps, config.steps)
    states = tuple(config.state_steps) or log_spaced_steps(config.steps)
    rate = LearningRate(config.learning_rate, config.schedule, warmup_steps, config.steps, phases)
    keep = config.get("keep_checkpoints", KEPT_CHECKPOINTS)
    if keep < 1:
        raise InputError(f"train.keep_checkpoints={keep}: expected 1 or more")
    settings = {key: config[key] for key in keys} | {"keep_checkpoints": keep}
    return settings | {"state_steps": (*states, *phases), "learning_rate": rate}


def gradient_accumulation_steps(config: ConfigDict) -> int:
    """How many parts of a batch are computed one after the other, by `config.train`.

    Raises:
        InputError: if it is below 1.
    """
    parts = config.get("gradient_accumulation_steps", 1)
    if parts < 1:
        raise InputError(f"train.gradient_accumulation_steps={parts}: expected 1 or more")
    return parts


def log_spaced_steps(steps: int) -> tuple[int, ...]:
    """0, 30, 100, 300, 1000 and so on below `steps`, then `steps` (our choice)."""
    spaced = (first * 10**power for power in range(1, 9) for first in (3, 10))
    return (0, *(step for step in spaced if step < steps), steps)


def require_at_least(config: ConfigDict, minimums: dict[str, float]) -> None:
    """Raises InputError if a value of a configuration, by dotted key, is below its minimum."""
    for path, minimum in minimums.items():
        value = functools.reduce(getattr, path.split("."), config)
        if not value >= minimum:
            raise InputError(f"{path}={value}: expected {minimum} or more")
