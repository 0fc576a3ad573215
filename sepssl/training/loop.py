"""One loop for both stages."""

import time
from collections.abc import Callable, Collection

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from sepssl.data.pipeline import distribute
from sepssl.errors import InputError
from sepssl.serialization import save_model
from sepssl.training.checkpoints import Resume, RunFolder
from sepssl.training.monitors import FiniteGuard, MetricsLog

SCHEDULES = ("constant", "cosine")
SCHEDULE_KEYS = (
    "steps",
    "learning_rate",
    "schedule",
    "warmup_steps",
    "log_every",
    "checkpoint_every",
    "state_steps",
)


def train(
    run: RunFolder,
    strategy: tf.distribute.Strategy,
    make_learner: Callable[[], keras.Model],
    batches,
    evaluate: Callable[[keras.Model], dict[str, float]],
    steps: int,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    log_every: int,
    checkpoint_every: int,
    state_steps: Collection[int],
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
        evaluate: product -> metrics, called at every kept state.
        steps: how many in all.
        learning_rate: of Adam.
        schedule: "constant", or "cosine" (to zero at the end).
        warmup_steps: the learning rate rises linearly over these.
        log_every, checkpoint_every: in steps.
        state_steps: steps whose product is kept; the last is always kept as `final.keras`.

    Returns:
        The trained product.

    Raises:
        TrainingDiverged: if loss or gradient is not finite.
    """
    rate = _schedule(learning_rate, schedule, warmup_steps, steps)
    with strategy.scope():
        learner = make_learner()
        learner.build()
        learner.compile(
            optimizer=keras.optimizers.Adam(rate),
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

    def keep(step: int) -> None:
        metrics = {f"validation/{k}": v for k, v in evaluate(learner.product).items()}
        run.keep_state(learner.product, step, metrics)
        if metrics:
            log.write(step, metrics)

    if done == 0 and 0 in state_steps:
        keep(0)
    if done:
        print(f"{run.path}: continues after step {done}", flush=True)
    progress = keras.utils.Progbar(steps, unit_name="step", stateful_metrics=learner.shown_metrics)
    started, started_at = time.perf_counter(), done
    for step, batch in enumerate(
        distribute(strategy, batches.load, done, steps) if done < steps else (), start=done
    ):
        guard.add(step, train_step(batch))
        after = step + 1
        checkpoint_due = after % checkpoint_every == 0 or after == steps or after in state_steps
        if after % log_every == 0 or checkpoint_due:
            metrics = guard.flush(resume.latest)
            now = time.perf_counter()
            metrics["steps_per_second"] = (after - started_at) / (now - started)
            started, started_at = now, after
            log.write(after, metrics)
            shown = [(name, metrics[name]) for name in learner.shown_metrics]
            progress.update(after, shown, finalize=after == steps)
        if after in state_steps:
            keep(after)
            started = time.perf_counter()
        if checkpoint_due:
            resume.save(after)
    if not run.final.exists():
        save_model(learner.product, run.final)
    return learner.product


def schedule_of(config: ConfigDict) -> dict:
    """The arguments of `train` that `config.train` sets.

    Raises:
        InputError: if one of them is out of range.
    """
    for key in ("steps", "log_every", "checkpoint_every"):
        if config[key] < 1:
            raise InputError(f"train.{key}={config[key]}: expected 1 or more")
    if not config.learning_rate > 0:
        raise InputError(f"train.learning_rate={config.learning_rate}: expected above 0")
    if config.schedule not in SCHEDULES:
        raise InputError(f"train.schedule={config.schedule!r}: expected {' or '.join(SCHEDULES)}")
    return {key: config[key] for key in SCHEDULE_KEYS}


def _schedule(learning_rate: float, schedule: str, warmup_steps: int, steps: int):
    if schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else learning_rate,
            decay_steps=max(steps - warmup_steps, 1),
            warmup_target=learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    return learning_rate
