"""What is left when a run is stopped, killed or out of disk at the worst moment."""

import errno
import io
import json
import os
import pathlib
import shutil
import signal
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from learners import LEARNERS, compiled

from sepssl.errors import InputError, OutputError
from sepssl.training.checkpoints import Resume, RunFolder, variable_keys
from sepssl.training.learner import Learner
from sepssl.training.loop import LearningRate, train
from sepssl.training.monitors import read_metrics


class Line(Learner):
    """Least squares, by noisy steps."""

    def __init__(self):
        super().__init__(name="line", clip_norm=1.0)
        self.dense = keras.layers.Dense(1, name="dense")
        self.line = keras.Sequential([keras.Input((2,)), self.dense])
        self.noise = keras.layers.GaussianNoise(0.1, seed=1)

    def build(self, input_shape=None):
        self.built = True

    @property
    def product(self):
        return self.line

    def loss_and_metrics(self, data, training):
        found = self.line(self.noise(data["x"], training=training))[:, 0]
        return tf.reduce_mean(tf.square(found - data["y"])), {}


class Points:
    """Batches of which one may do something before it is there."""

    def __init__(self, meanwhile=None):
        self.meanwhile = meanwhile or {}

    def load(self, step):
        self.meanwhile.get(step, lambda: None)()
        x = np.random.default_rng(step).normal(size=(4, 2)).astype(np.float32)
        return {"x": x, "y": x @ np.float32([1.0, -2.0])}

    def names(self, step):
        return []


def learner():
    keras.utils.set_random_seed(0)
    made = Line()
    made.build()
    made.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    made.optimizer.build(made.trainable_variables)
    return made


def run_of(path, steps=6, meanwhile=None, evaluate=None, config=None, **options):
    """Trains to the end; returns all variables."""
    made = []
    folder = RunFolder(path, config or {"train": {"steps": steps}}, verbose=False)
    rate = LearningRate(0.05, "cosine", 2, steps, folder.phases)

    def make():
        made.append(learner())
        made[-1].optimizer.learning_rate = rate
        return made[-1]

    options = {"log_every": 2, "checkpoint_every": 4, "state_steps": (steps,)} | options
    train(
        folder, tf.distribute.get_strategy(), make, Points(meanwhile), evaluate, steps, rate,
        verbose=False, **options,
    )  # fmt: skip
    return [np.asarray(v) for v in [*made[-1].variables, *made[-1].optimizer.variables]]


@pytest.fixture
def sigterm():
    """As a command handles it."""

    def stop(number, _):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def equal(found, expected):
    return all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))


def test_a_signal_has_the_steps_done_saved_and_the_run_continues_to_the_last_bit(
    eager, sigterm, tmp_path
):
    straight = run_of(tmp_path / "straight")
    in_evaluation = {"evaluate": lambda _: sigterm(), "state_steps": (3, 6)}
    for number, (says, options) in enumerate(
        [(None, {"meanwhile": {step: sigterm}}) for step in (0, 3, 5)] + [(3, in_evaluation)]
    ):
        path = tmp_path / str(number)
        with pytest.raises(SystemExit) as stopped:
            run_of(path, **options)
        assert stopped.value.code == 128 + signal.SIGTERM
        saved = sorted(int(p.stem[5:]) for p in path.glob("checkpoints/*.index"))
        if says:
            assert saved == [says]
        options = {key: value for key, value in options.items() if key == "state_steps"}
        evaluate = (lambda _: {"ok": 1.0}) if options else None
        assert equal(run_of(path, evaluate=evaluate, **options), straight)
        if options:  # the evaluation that was interrupted was made up for
            validated = [r["step"] for r in read_metrics(path / "metrics.jsonl") if len(r) == 2]
            assert validated == [3, 6]
            assert (path / "states" / "step-0000003.json").exists()


def test_a_second_signal_does_not_disturb_the_saving_that_the_first_one_caused(
    eager, sigterm, tmp_path, monkeypatch
):
    save = Resume.save

    def signalled(self, step):
        sigterm()
        save(self, step)

    def evaluate(_):
        monkeypatch.setattr(Resume, "save", signalled)
        sigterm()

    options = {"checkpoint_every": 9, "evaluate_every": 2, "state_steps": ()}
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        run_of(tmp_path, evaluate=evaluate, **options)
    assert [p.stem for p in tmp_path.glob("checkpoints/*.index")] == ["ckpt-2"]


def test_the_handler_of_a_signal_is_another_one_while_steps_may_be_unsaved(
    eager, sigterm, tmp_path
):
    before, found = signal.getsignal(signal.SIGTERM), []

    def evaluate(_):
        found.append(signal.getsignal(signal.SIGTERM) == before)
        return {}

    run_of(tmp_path, 2, evaluate=evaluate, evaluate_every=1, state_steps=(0, 2))
    assert found == [True, False, False]
    assert signal.getsignal(signal.SIGTERM) == before


class Killed(BaseException):
    """Nothing catches it, like SIGKILL."""


def checkpoint_stages(patch, fail_at, error):
    """Raises at one of the operations on files by which a checkpoint is written.

    Returns:
        A list that holds the names of those that were made.
    """
    made = []

    def failing(name, operation):
        def wrapped(*arguments, **options):
            if len(made) == fail_at:
                if name == "write":  # half of it is there
                    file = pathlib.Path(f"{arguments[1]}.data-00000-of-00001")
                    file.parent.mkdir(exist_ok=True)
                    file.write_bytes(b"half")
                raise error
            made.append(name)
            return operation(*arguments, **options)

        return wrapped

    for owner, name in (
        (shutil, "rmtree"), (tf.train.Checkpoint, "write"), (os, "fsync"), (os, "replace"),
        (pathlib.Path, "rmdir"), (pathlib.Path, "unlink"),
    ):  # fmt: skip
        patch.setattr(owner, name, failing(name, getattr(owner, name)))
    return made


@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_whenever_the_writing_of_a_checkpoint_ends_one_is_whole(error, tmp_path):
    """Data and index are moved one after the other, then their folder flushed, old ones removed."""
    stages = [
        "rmtree", "write", "fsync", "fsync", "replace", "replace", "fsync", "rmdir", "unlink",
        "unlink",
    ]  # fmt: skip
    source = learner()
    for fail_at in range(len(stages)):
        run = RunFolder(tmp_path / str(fail_at), {})
        resume = Resume(run, source, keep=1)
        source.dense.kernel.assign([[1.0], [1.0]])
        resume.save(1)
        source.dense.kernel.assign([[2.0], [2.0]])
        with pytest.MonkeyPatch.context() as patch:
            made = checkpoint_stages(patch, fail_at, error)
            with pytest.raises((Killed, OutputError)) as raised:
                resume.save(2)
        assert made == stages[:fail_at]
        if isinstance(error, OSError):
            assert "checkpoint could not be written: No space left" in str(raised.value)
        again = learner()
        step = Resume(run, again, keep=1).restore()
        assert step == (1 if fail_at < 6 else 2)  # whether the index had been moved
        np.testing.assert_array_equal(again.dense.kernel, [[step], [step]])
        Resume(run, source, keep=1).save(2)
        assert Resume(run, again, keep=1).restore() == 2
        left = {p.name for p in (run.path / "checkpoints").iterdir()}
        assert left - {"ckpt-1.data-00000-of-00001"} == {
            "ckpt-2.index", "ckpt-2.data-00000-of-00001"
        }  # fmt: skip


def test_so_many_checkpoints_are_kept_as_asked_for(eager, tmp_path):
    run_of(tmp_path / "run", checkpoint_every=1, keep_checkpoints=3, state_steps=(1, 6))
    kept = sorted(p.name for p in (tmp_path / "run").glob("checkpoints/*.index"))
    assert kept == ["ckpt-4.index", "ckpt-5.index", "ckpt-6.index"]
    assert [p.name for p in RunFolder(tmp_path / "run", {"train": {"steps": 6}}).states()] == [
        "step-0000001.keras", "step-0000006.keras"
    ]  # fmt: skip


def test_a_schedule_in_phases_hand_worked():
    rate = LearningRate(0.1, "cosine", warmup_steps=4, steps=30, phases=(12, 18))
    alone = LearningRate(0.1, "cosine", warmup_steps=4, steps=12)
    assert [float(rate(n)) for n in range(12)] == [float(alone(n)) for n in range(12)]
    # Of six steps, three warm up; of the last twelve, four.
    assert [float(rate(n)) for n in range(12, 18)] == pytest.approx(
        [0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.075, 0.025], abs=1e-8
    )
    assert float(rate(26)) == pytest.approx(0.05, abs=1e-8)
    assert float(rate(30)) == pytest.approx(0.0, abs=1e-8)


def test_more_steps_are_a_new_phase_whenever_they_are_asked_for(eager, sigterm, tmp_path):
    finished = tmp_path / "finished"
    run_of(finished, 4, state_steps=(0,))
    final = keras.models.load_model(finished / "final.keras").get_weights()
    longer = run_of(finished, 6, config={"train": {"steps": 6}}, state_steps=(0, 4, 6))
    for file, same in (("states/step-0000004.keras", True), ("final.keras", False)):
        assert equal(keras.models.load_model(finished / file).get_weights(), final) == same
    assert json.loads((finished / "config.json").read_text()) == {
        "train": {"steps": 6}, "phases": [4]
    }  # fmt: skip
    stopped = tmp_path / "stopped"
    with pytest.raises(SystemExit):
        run_of(stopped, 4, evaluate=lambda _: sigterm(), state_steps=(2,))
    assert equal(run_of(stopped, 6, state_steps=(0, 4, 6)), longer)
    assert not equal(run_of(tmp_path / "planned", 6), longer)  # one schedule over six steps
    with pytest.raises(InputError, match=r"train\.steps=6, now train\.steps=5"):
        RunFolder(finished, {"train": {"steps": 5}})
    with pytest.raises(InputError, match=r"no train\.rate, now train\.rate=2"):
        RunFolder(finished, {"train": {"steps": 9, "rate": 2}})


def test_a_phase_can_be_changed_or_taken_back_until_its_first_checkpoint(eager, tmp_path):
    def phases(steps):
        RunFolder(tmp_path, {"train": {"steps": steps}}, verbose=False)
        return json.loads((tmp_path / "config.json").read_text()).get("phases")

    def final():
        found = {}
        with zipfile.ZipFile(tmp_path / "final.keras") as file:
            content = io.BytesIO(file.read("model.weights.h5"))
        with h5py.File(content) as file:
            file.visititems(lambda name, item: found.update({name: item[()].tolist()})
                            if isinstance(item, h5py.Dataset) else None)  # fmt: skip
        return found

    run_of(tmp_path, 4)
    weights = final()
    assert phases(40) == [4]
    assert not (tmp_path / "final.keras").exists()
    assert phases(6) == [4]
    assert phases(4) is None
    run_of(tmp_path, 4)  # from the checkpoint
    assert weights
    assert final() == weights
    with pytest.raises(InputError, match=r"train\.steps=4, now train\.steps=3"):
        phases(3)
    run_of(tmp_path, 6)
    for steps in (4, 5):
        with pytest.raises(InputError, match=rf"train\.steps=6, now train\.steps={steps}"):
            phases(steps)
    assert phases(7) == [4, 6]
    assert phases(6) == [4]


KEYS = pathlib.Path(__file__).with_name("checkpoint_keys.json")


def test_checkpoints_name_variables_as_they_did():
    """A name that changes makes checkpoints of earlier versions unreadable.

    `PYTHONPATH=tests/conformance python -m tests.training.test_resume` writes the file anew.
    """
    assert stored_names() == json.loads(KEYS.read_text())


def stored_names():
    names = {}
    for case in LEARNERS:
        made = compiled(case)
        model, optimizer = variable_keys(made.variables, made.optimizer.variables)
        slots = {key.rpartition(":")[2] for key in optimizer}  # the same of every variable
        names[str(case)] = {"model": list(model), "optimizer": sorted(slots)}
    return names


if __name__ == "__main__":
    KEYS.write_text(json.dumps(stored_names(), indent=1) + "\n")
