"""One loop for both stages."""

import functools
import math
import time
from collections.abc import Callable, Collection, Iterable

import keras
import tensorflow as tf
from keras import ops
from ml_collections import ConfigDict

from sepssl.errors import InputError
from sepssl.files import lock_folder
from sepssl.progress import Progress
from sepssl.serialization import save_model
from sepssl.training.checkpoints import Resume, RunFolder
from sepssl.training.input import distribute
from sepssl.training.monitors import FiniteGuard, MetricsLog

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
    """Linear warm-up, then constant or a half cosine to zero at the last step.

    Args:
        rate: highest learning rate.
        schedule: one of `SCHEDULES`.
        warmup_steps: update n < `warmup_steps` is made at `(n + 1) / warmup_steps` of the rate.
        steps: updates in all.
    """

    def __init__(self, rate: float, schedule: str, warmup_steps: int, steps: int):
        self.rate = rate
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.steps = steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        factor = ops.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
        if self.schedule == "cosine":
            done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
            factor = factor * 0.5 * (1.0 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))
        return self.rate * factor

    def get_config(self):
        return {
            "rate": self.rate,
            "schedule": self.schedule,
            "warmup_steps": self.warmup_steps,
            "steps": self.steps,
        }


def train(
    run: RunFolder,
    strategy: tf.distribute.Strategy,
    make_learner: Callable[[], keras.Model],
    batches,
    evaluate: Callable[[keras.Model], dict[str, float]],
    steps: int,
    learning_rate: LearningRate,
    log_every: int,
    checkpoint_every: int,
    state_steps: Collection[int],
    evaluate_every: int = 0,
    warnings: Iterable[Callable[[dict[str, float]], str | None]] = (),
    verbose: bool = True,
) -> keras.Model:
    """Trains a learner, from the start or from where the run stopped.

    Steps count from 0; a state or checkpoint of step n is what n updates made.

    Args:
        run: where everything is written.
        strategy: data parallelism.
        make_learner: makes the model, called in the strategy's scope. It has a `train_step` that
            returns scalars, "loss" and "gradient_norm" among them, a `product`, the model to
            keep, `gains_from_xla`, whether XLA makes its step faster, and
            `shown_metrics`, those beside the progress bar.
        batches: `load(step)`, a dict of arrays, and `names(step)`, the clips in them.
        evaluate: product -> metrics, called at every kept state and every `evaluate_every` steps.
        steps: how many in all.
        learning_rate: of Adam.
        log_every, checkpoint_every: in steps.
        state_steps: steps whose product is kept; the last is always kept as `final.keras`.
        evaluate_every: in steps; 0 for kept states only.
        warnings: logged metrics -> what is going wrong, or None; asked after the warm-up, and the
            first thing that each says is printed.
        verbose: whether to show progress and warnings.

    Returns:
        The trained product.

    Raises:
        TrainingDiverged: if loss or gradient is not finite.
        InputError: if another process is training in the same folder.
    """
    with lock_folder(run.path, wait=False):
        with strategy.scope():
            learner = make_learner()
            learner.build()
            learner.compile(
                optimizer=keras.optimizers.Adam(learning_rate),
                jit_compile=False,  # decided below, for the step as a whole
            )
            learner.optimizer.build(learner.trainable_variables)
            resume = Resume(run, learner)
        done = resume.restore()
        log = MetricsLog(run.path, done)
        guard = FiniteGuard(batches.names)

        # XLA fails under strategies that replicate.
        single = not isinstance(strategy, tf.distribute.MirroredStrategy)

        @tf.function(jit_compile=learner.gains_from_xla and single)
        def train_step(batch):
            metrics = strategy.run(learner.train_step, (batch,))
            return {k: strategy.reduce("MEAN", v, axis=None) for k, v in metrics.items()}

        def evaluate_and_keep(step: int) -> None:
            metrics = {f"validation/{k}": v for k, v in evaluate(learner.product).items()}
            if step in state_steps:
                run.keep_state(learner.product, step, metrics)
            if metrics:
                log.write(step, metrics)

        if done == 0 and 0 in state_steps:
            evaluate_and_keep(0)
        if done and done < steps:
            start = f"{run.path}: continues after step {done}; the first step compiles, please wait"
        elif done:
            start = f"{run.path}: finished already"
        else:
            start = f"{run.path}: {steps} steps; the first one compiles, please wait"
        silent = list(warnings)
        with Progress("training", steps, "step", done, start=start, verbose=verbose) as progress:
            started, started_at = time.perf_counter(), done
            for step, batch in enumerate(
                distribute(strategy, batches.load, done, steps) if done < steps else (), start=done
            ):
                guard.add(step, train_step(batch))
                progress.update()
                after = step + 1
                checkpoint_due = (
                    after % checkpoint_every == 0 or after == steps or after in state_steps
                )
                if after % log_every == 0 or checkpoint_due:
                    metrics = guard.flush(resume.latest)
                    now = time.perf_counter()
                    metrics["steps_per_second"] = (after - started_at) / (now - started)
                    started, started_at = now, after
                    log.write(after, metrics)
                    progress.update(0, **{name: metrics[name] for name in learner.shown_metrics})
                    for warning in list(silent) if after > learning_rate.warmup_steps else ():
                        if problem := warning(metrics):
                            silent.remove(warning)
                            progress.note(f"step {after}: {problem}")
                if after in state_steps or (evaluate_every and after % evaluate_every == 0):
                    paused = time.perf_counter()
                    evaluate_and_keep(after)
                    started += time.perf_counter() - paused
                if checkpoint_due:
                    resume.save(after)
        if not run.final.exists():
            save_model(learner.product, run.final)
        return learner.product


def loop_settings(config: ConfigDict) -> dict:
    """The arguments of `train` that `config.train` sets.

    The warm-up takes `config.train.warmup_steps`, but at most half of all steps.

    Raises:
        InputError: if one of them is out of range.
    """
    if config.schedule not in SCHEDULES:
        raise InputError(f"train.schedule={config.schedule!r}: expected {' or '.join(SCHEDULES)}")
    if not config.learning_rate > 0:
        raise InputError(f"train.learning_rate={config.learning_rate}: expected above 0")
    if config.warmup_steps < 0:
        raise InputError(f"train.warmup_steps={config.warmup_steps}: expected 0 or more")
    # So that a short run needs no other value than its steps; half is our choice.
    warmup_steps = min(config.warmup_steps, config.steps // 2)
    keys = ("steps", "log_every", "checkpoint_every")
    states = tuple(config.state_steps) or log_spaced_steps(config.steps)
    rate = LearningRate(config.learning_rate, config.schedule, warmup_steps, config.steps)
    settings = {key: config[key] for key in keys}
    return settings | {"state_steps": states, "learning_rate": rate}


def log_spaced_steps(steps: int) -> tuple[int, ...]:
    """0, 30, 100, 300, 1000 and so on as far as `steps`, and `steps` (our choice)."""
    spaced = (first * 10**power for power in range(1, 9) for first in (3, 10))
    return (0, *(step for step in spaced if step < steps), steps)


def require_at_least(config: ConfigDict, minimums: dict[str, float]) -> None:
    """Raises InputError if a value of a configuration, by dotted key, is below its minimum."""
    for path, minimum in minimums.items():
        value = functools.reduce(getattr, path.split("."), config)
        if not value >= minimum:
            raise InputError(f"{path}={value}: expected {minimum} or more")
