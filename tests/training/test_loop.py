import json
import pathlib
import signal

import numpy as np
import pytest

import sepssl

TOY = pathlib.Path(__file__).parent / "toy.py"


@pytest.fixture(scope="module")
def run(forks):
    """Runs toy.py in a process of its own: a collective that fails poisons later ones."""

    def run(*arguments, expect=0):
        finished = forks.run(TOY, *arguments)
        assert finished.returncode == expect, finished.stderr[-3000:]
        return json.loads(finished.stdout.splitlines()[-1]) if expect == 0 else finished

    return run


@pytest.fixture(scope="module")
def straight(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return {stage: run(stage, folder / stage) for stage in ("separator", "encoder")} | {
        "folder": folder
    }


@pytest.mark.parametrize("stage", ["separator", "encoder"])
def test_a_killed_run_continues_to_the_last_bit(stage, run, straight, tmp_path):
    run(stage, tmp_path / "run", "--die-after=3", expect=-signal.SIGKILL)
    resumed = run(stage, tmp_path / "run")
    assert resumed["digest"] == straight[stage]["digest"]
    assert resumed["metrics"] == straight[stage]["metrics"]


def test_two_replicas_train_as_one(run, straight, tmp_path):
    """The encoder, whose negatives come from all replicas; all learners: tests/conformance."""
    two = run("encoder", tmp_path / "run", "--cpus=2")
    one = straight["encoder"]
    names = ["loss", "gradient_norm", "similarity_loss", "coincidence_loss"]
    names += ["contrastive_accuracy", "coincidence_auc", "mixture_channel_share"]
    for ours, theirs in zip(two["metrics"], one["metrics"], strict=True):
        # Before the first update the numbers are the same but for rounding. Then Adam, which
        # divides by the gradient's size, blows that rounding up where a gradient is nearly zero.
        tolerance = 5e-5 if ours["step"] == 1 else 2e-3
        for name in names:
            if name in ("gradient_norm", "coincidence_auc") and ours["step"] > 1:
                continue  # the most sensitive: 1 % apart, or a rank, after the first update
            assert ours[name] == pytest.approx(theirs[name], rel=tolerance, abs=1e-5), name
    # The way that the two are apart is short beside the way they went. (Not so every weight of
    # its own: where its gradient is about zero, rounding decides in which direction Adam goes.)
    apart = [np.subtract(two["weights"][path], weights) for path, weights in one["weights"].items()]
    apart = np.sqrt(sum(np.sum(np.square(difference)) for difference in apart))
    went = sum(record["update_norm"] for record in one["metrics"])
    assert apart < 0.1 * went


def test_a_finished_run_holds_what_it_should(run, straight):
    folder = straight["folder"] / "separator"
    states = sorted(p.name for p in (folder / "states").iterdir())
    assert states == [
        f"step-000000{step}.{suffix}" for step in (0, 3) for suffix in ("json", "keras")
    ]
    assert list((folder / "tensorboard").glob("events*"))
    final = sepssl.load_separator(folder / "final.keras")
    weights = straight["separator"]["weights"]
    for variable in final.variables:
        path = next(p for p in weights if p.endswith(variable.path.split("/", 1)[1]))
        np.testing.assert_array_equal(variable, np.float32(weights[path]))
    start = sepssl.load_separator(folder / "states" / "step-0000000.keras")
    assert any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(start.variables, final.variables, strict=True)
    )
    # A finished run that is started again has nothing to do.
    again = run("separator", folder)
    assert again["digest"] == straight["separator"]["digest"]


def test_a_nan_stops_the_run_and_names_what_to_look_at(run, tmp_path):
    failed = run("separator", tmp_path / "run", "--nan-at=4", expect=1)
    message = failed.stderr.splitlines()[-1]
    assert "step 4: loss is nan" in message
    assert "checkpoints/ckpt-4" in message
    assert "clip4-0.wav, clip4-1.wav" in message
    assert not (tmp_path / "run" / "final.keras").exists()
    records = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert records[-1]["step"] == 4  # four good updates
