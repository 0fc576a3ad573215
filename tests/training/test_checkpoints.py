import json

import keras
import numpy as np
import pytest

from sepssl.errors import InputError
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.training.added_keys import without_added_keys
from sepssl.training.checkpoints import Resume, RunFolder
from sepssl.training.monitors import FiniteGuard, MetricsLog, TrainingDiverged, read_metrics
from sepssl.training.separator_learner import SeparatorLearner

CONFIG = {"task": "separator", "train": {"steps": 3, "state_steps": (0, 3)}}


def test_the_same_configuration_continues_a_run(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    again = RunFolder(tmp_path / "run", CONFIG)
    assert json.loads((again.path / "config.json").read_text())["train"]["steps"] == 3


def test_another_configuration_is_refused_by_its_first_difference(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    other = {"task": "separator", "train": {"steps": 5, "state_steps": (0, 3)}}
    with pytest.raises(InputError, match=r"holds a run with train\.steps=3, now train\.steps=5"):
        RunFolder(tmp_path / "run", other)


def test_a_run_from_before_a_key_continues_with_what_it_did_without_it(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    now = {"task": "separator", "train": {**CONFIG["train"], "precision": "float32"}}
    RunFolder(tmp_path / "run", now)
    now["train"]["precision"] = "bfloat16"
    says = r"holds a run with no train\.precision, now train\.precision='bfloat16'"
    with pytest.raises(InputError, match=says):
        RunFolder(tmp_path / "run", now)
    RunFolder(tmp_path / "new", now)
    with pytest.raises(InputError, match=r"train\.precision='bfloat16', now no train\.precision"):
        RunFolder(tmp_path / "new", CONFIG)
    with pytest.raises(InputError, match=r"now colour='red'"):
        RunFolder(tmp_path / "run", {**CONFIG, "colour": "red"})


def test_added_keys_count_within_stages_and_only_at_the_value_that_changes_nothing():
    stage = {"train": {"precision": "float32", "steps": 1}, "precision": "float32"}
    without = {"train": {"steps": 1}, "precision": "float32"}
    assert without_added_keys({"separator": stage, **stage}) == {"separator": without, **without}
    other = {"train": {"precision": "float16"}}
    assert without_added_keys(other) == other


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
