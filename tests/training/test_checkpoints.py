import itertools
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.training.added_keys import without_added_keys
from sepssl.training.checkpoints import Resume, RunFolder, variable_keys
from sepssl.training.learner import Learner
from sepssl.training.monitors import FiniteGuard, MetricsLog, TrainingDiverged, read_metrics
from sepssl.training.separator_learner import SeparatorLearner

CONFIG = {"task": "separator", "train": {"steps": 3, "state_steps": (0, 3)}}


def test_the_same_configuration_continues_a_run(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    again = RunFolder(tmp_path / "run", CONFIG)
    assert json.loads((again.path / "config.json").read_text())["train"]["steps"] == 3


def trained(path, config):
    """A run with a checkpoint."""
    folder = RunFolder(path, config).path / "checkpoints"
    folder.mkdir()
    (folder / "ckpt-1.index").touch()


def test_another_configuration_is_refused_by_its_first_difference(tmp_path):
    trained(tmp_path / "run", CONFIG)
    other = {"task": "separator", "train": {"steps": 2, "state_steps": (0, 3)}}
    with pytest.raises(InputError, match=r"holds a run with train\.steps=3, now train\.steps=2"):
        RunFolder(tmp_path / "run", other)


def test_a_start_that_trained_nothing_leaves_the_folder_to_another_configuration(tmp_path, capsys):
    path = tmp_path / "run"
    RunFolder(path, CONFIG)
    for name in ("clips-1/index.jsonl", "checkpoints/.writing/x", "states/step-0000000.keras"):
        (path / name).parent.mkdir(parents=True)
        (path / name).touch()
    for name in ("metrics.jsonl", "clips.json", "versions.json"):
        (path / name).touch()
    other = {"task": "separator", "train": {"steps": 5, "state_steps": (3,)}}
    with RunFolder(path, CONFIG).lock(), pytest.raises(InputError, match="another process"):
        RunFolder(path, other)
    assert json.loads((path / "config.json").read_text())["train"]["steps"] == 3
    RunFolder(path, other)
    assert "run: the run there had trained nothing yet; starting anew" in capsys.readouterr().out
    assert json.loads((path / "config.json").read_text())["train"] == {
        "steps": 5, "state_steps": [3]
    }  # fmt: skip
    assert not (path / "states" / "step-0000000.keras").exists()  # of other settings
    assert not (path / "clips.json").exists()
    assert (path / "clips-1" / "index.jsonl").exists()
    RunFolder(path, other)
    assert capsys.readouterr().out == ""
    for name in ("states/step-0000003.keras", "final.keras", "separator/config.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).touch()
        with pytest.raises(InputError, match="holds a run with"):
            RunFolder(path, CONFIG)
        (path / name).unlink()
        (path / "separator").is_dir() and (path / "separator").rmdir()
    # Nor is the configuration of something else overwritten.
    (path / "config.json").write_text('{"editor": "vi"}')
    with pytest.raises(InputError, match="holds a run with"):
        RunFolder(path, CONFIG)


def test_a_run_from_before_a_key_continues_with_what_it_did_without_it(tmp_path):
    trained(tmp_path / "run", CONFIG)
    now = {"task": "separator", "train": {**CONFIG["train"], "precision": "float32"}}
    RunFolder(tmp_path / "run", now)
    now["train"]["precision"] = "bfloat16"
    says = r"holds a run with no train\.precision, now train\.precision='bfloat16'"
    with pytest.raises(InputError, match=says):
        RunFolder(tmp_path / "run", now)
    trained(tmp_path / "new", now)
    with pytest.raises(InputError, match=r"train\.precision='bfloat16', now no train\.precision"):
        RunFolder(tmp_path / "new", CONFIG)
    # A value that changes nothing is named all the same where another differs.
    neutral = {"task": "separator", "train": {**now["train"], "precision": "float32"}}
    with pytest.raises(InputError, match=r"'bfloat16', now train\.precision='float32'"):
        RunFolder(tmp_path / "new", neutral)
    with pytest.raises(InputError, match=r"now colour='red'"):
        RunFolder(tmp_path / "run", {**CONFIG, "colour": "red"})


def test_added_keys_count_within_stages_and_only_at_the_value_that_changes_nothing():
    stage = {"train": {"precision": "float32", "steps": 1}, "precision": "float32"}
    without = {"train": {"steps": 1}, "precision": "float32"}
    assert without_added_keys({"separator": stage, **stage}) == {"separator": without, **without}
    other = {"train": {"precision": "float16"}}
    assert without_added_keys(other) == other
    for speeds in ((1, 1), [1.0, 1], (1.0, 1.0)):
        assert without_added_keys({"data": {"mix": {"speed_range": speeds}}}) == {}
    for other in ((1, 2), (1.0,), 1.0):
        config = {"data": {"mix": {"speed_range": other}}}
        assert without_added_keys(config) == config


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 5000, "\x00"])
def test_a_configuration_that_is_none_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: is not the configuration") as raised:
        RunFolder(tmp_path, CONFIG)
    assert "\n" not in str(raised.value)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"no config\.json of a run"):
        RunFolder(tmp_path, CONFIG)
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def learner(channels):
    model = SeparatorLearner(Separator(2, STFTBasis(64, 32), TDCN(channels, 12, 2, 1)))
    model.build()
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    first = learner(8)
    Resume(run, first).save(2)
    second = learner(8)
    assert Resume(run, second).restore() == 2
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="ckpt-2: could not be restored"):
        Resume(run, learner(10)).restore()


class Pair(Learner):
    """Two layers of one shape, tracked in either order."""

    def __init__(self, order="xy"):
        super().__init__(name=f"pair_{next(COUNTER)}")
        layers = {}
        for letter, name, value in (("x", "dense", 1.0), ("y", "dense_1", 2.0)):
            layers[letter] = keras.layers.Dense(1, name=name)
            layers[letter].build((None, 1))
            layers[letter].kernel.assign([[value]])
        for letter in order:
            setattr(self, letter, layers[letter])
        self.compile(keras.optimizers.Adam(1e-3))
        self.optimizer.build(self.trainable_variables)


COUNTER = itertools.count(3)


def test_no_variable_takes_the_value_of_another_of_its_shape(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    first = Pair("xy")
    Resume(run, first).save(1)
    second = Pair("yx")
    for variable in second.variables:
        variable.assign(np.zeros(variable.shape))
    Resume(run, second).restore()
    assert float(second.x.kernel[0, 0]) == 1.0
    assert float(second.y.kernel[0, 0]) == 2.0
    keys = variable_keys(first.variables, first.optimizer.variables)
    assert list(keys[0]) == ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    assert {"dense/kernel:momentum", "dense_1/bias:velocity"} <= set(keys[1])


def test_automatic_numbers_count_from_0_among_siblings():
    paths = [
        "a_7/dense_12/kernel",
        "a_7/dense_12/bias",
        "a_7/dense_30/kernel",
        "b_2/dense_9/kernel",
    ]
    variables = [types.SimpleNamespace(path=path, name=path.split("/")[-1]) for path in paths]
    slots = [types.SimpleNamespace(path="adam/iteration", name="iteration")]
    slots += [
        types.SimpleNamespace(path="", name=f"{path.replace('/', '_')}_momentum") for path in paths
    ]
    keys, slot_keys = variable_keys(variables, slots)
    expected = ["a/dense/kernel", "a/dense/bias", "a/dense_1/kernel", "b/dense/kernel"]
    assert list(keys) == expected
    assert list(slot_keys) == ["iteration", *(f"{key}:momentum" for key in expected)]
    assert list(keys.values()) == variables


def test_only_checkpoints_in_the_folder_count(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    first = learner(8)
    resume = Resume(run, first)
    for step in (1, 2, 3):
        resume.save(step)
    folder = run.path / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {
        f"ckpt-{step}.{end}" for step in (2, 3) for end in ("index", "data-00000-of-00001")
    }
    # A text file that TensorFlow's own manager would believe: it names files to read and to remove.
    (tmp_path / "precious.index").write_text("precious")
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "../../precious"\nall_model_checkpoint_paths: "../../precious"\n'
    )
    (folder / ".writing").mkdir()  # of a process that was killed
    (folder / ".writing" / "ckpt-9.index").write_text("half")
    (folder / "ckpt-9.data-00000-of-00001").write_text("killed before its index was put beside it")
    theirs = {"ckpt-1-good.index", "ckpt-best.keras"}  # somebody's copies
    for name in theirs:
        (folder / name).touch()
    (folder / "ckpt-old.d").mkdir()
    again = Resume(run, learner(8))
    assert again.restore() == 3
    again.save(4)
    assert {p.name for p in folder.glob("ckpt-*")} == {
        f"ckpt-{step}.{end}" for step in (3, 4) for end in ("index", "data-00000-of-00001")
    } | theirs | {"ckpt-old.d"}
    assert (tmp_path / "precious.index").exists()
    assert Resume(run, learner(8)).restore() == 4
    data = folder / "ckpt-4.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"ckpt-4: could not be restored \(.*") as raised:
        Resume(run, learner(8)).restore()
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_version_0_1_0_is_restored_by_position_and_name(tmp_path):
    first = learner(8)
    checkpoint = tf.train.Checkpoint(
        step=tf.Variable(5, dtype=tf.int64),
        model=[v.value for v in first.variables],
        optimizer=[v.value for v in first.optimizer.variables],
    )
    folder = str(tmp_path / "run" / "checkpoints")
    tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2).save(checkpoint_number=5)
    (tmp_path / "run" / "config.json").write_text(json.dumps(CONFIG))
    run = RunFolder(tmp_path / "run", CONFIG)
    second = learner(8)
    assert Resume(run, second).restore() == 5
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match=r"where .* was expected"):
        Resume(run, Pair()).restore()


def test_versions_are_recorded_and_a_change_is_reported(tmp_path, capsys):
    run = RunFolder(tmp_path / "run", CONFIG)
    path = run.path / "versions.json"
    run.record_versions(0)
    run.record_versions(2)
    (record,) = json.loads(path.read_text())
    assert record["step"] == 0
    assert record["keras"] == keras.__version__
    assert capsys.readouterr().out == ""
    path.write_text(json.dumps([record | {"keras": "3.9.9"}]))
    run.record_versions(7)
    assert f"keras 3.9.9 is now {keras.__version__}" in capsys.readouterr().out
    assert [r["step"] for r in json.loads(path.read_text())] == [0, 7]
    path.write_text("{")
    run.record_versions(8)
    assert [r["step"] for r in json.loads(path.read_text())] == [8]


def test_a_lock_of_ones_own_can_be_nested(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    with run.lock():
        with run.lock():
            pass
        other = RunFolder(tmp_path / "run", CONFIG)
        with pytest.raises(InputError, match="another process"), other.lock():
            pass
    with RunFolder(tmp_path / "run", CONFIG).lock():
        pass


def test_metrics_are_json_for_every_parser(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 1.5, "uniformity": float("nan"), "rank": float("inf")})
    refuse = lambda constant: pytest.fail(constant)  # noqa: E731
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        "step": 1,
        "loss": 1.5,
        "uniformity": None,
        "rank": None,
    }
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert record["loss"] == 1.5
    assert np.isnan(record["uniformity"])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[3]\n{"step": 2}\n')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut by a kill
    MetricsLog(tmp_path, first_step=2).write(3, {"loss": 30.0})
    assert [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 30.0]


def test_the_guard_averages_and_stops():
    guard = FiniteGuard(lambda step: [f"{step}.wav"])
    for step, loss in enumerate([1.0, 3.0]):
        guard.add(step, {"loss": loss, "gradient_norm": 1.0})
    assert guard.flush(None) == {"loss": 2.0, "gradient_norm": 1.0}
    assert guard.flush(None) == {}
    guard.add(7, {"loss": 1.0, "gradient_norm": float("inf")})
    with pytest.raises(TrainingDiverged, match=r"step 7: gradient_norm is inf.*none.*7\.wav"):
        guard.flush(None)


def test_a_skipped_step_does_not_stop_a_run_as_long_as_the_scale_can_fall():
    step = {"loss": 1.0, "gradient_norm": 3.0, "loss_scale": 4.0, "skipped": 0.0}
    skipped = step | {"gradient_norm": float("nan"), "skipped": 1.0}
    guard = FiniteGuard(lambda step: [])
    guard.add(0, step)
    guard.add(1, skipped)
    assert guard.flush(None) == step | {"skipped": 0.5}
    guard.add(2, skipped)
    assert np.isnan(guard.flush(None)["gradient_norm"])
    guard.add(3, skipped | {"loss_scale": 1.0})
    with pytest.raises(TrainingDiverged, match=r"step 3: gradient_norm is nan.*: unknown$"):
        guard.flush(None)
    guard.add(4, skipped | {"loss": float("inf")})
    with pytest.raises(TrainingDiverged, match="step 4: loss is inf"):
        guard.flush(None)
