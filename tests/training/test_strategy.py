"""Groups of processes: how they find each other, share a batch, and train as one."""

import json
import pathlib
import signal
import sys

import numpy as np
import pytest

from sepssl.cli import train
from sepssl.cli.train import LOST, restarted
from sepssl.errors import InputError
from sepssl.training.batches import RecordingBatches, ViewBatches
from sepssl.training.monitors import read_metrics
from sepssl.training.signals import handlers_replaced
from sepssl.training.strategy import SLURM_PORT, cluster, make_strategy

WORKERS = pathlib.Path(__file__).with_name("workers.py")


def slurm(nodes, tasks, rank):
    return {
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_PROCID": str(rank),
    }


def test_slurm_variables_name_the_group():
    p = SLURM_PORT
    assert cluster(slurm("gpu7", "1", 0)) == ([f"gpu7:{p}"], 0)
    # In Slurm's order, which is that of ranks: n9 before n10; zeros are kept.
    workers, index = cluster(slurm("n[9-10],a-[08,11-12]x", "2(x2),1(x3)", 3))
    assert workers == [
        f"n9:{p}", f"n9:{p + 1}", f"n10:{p}", f"n10:{p + 1}",
        f"a-08x:{p}", f"a-11x:{p}", f"a-12x:{p}",
    ]  # fmt: skip
    assert index == 3
    assert cluster(slurm("r[1-2]n[3,4]", "1(x4)", 3))[0] == [
        f"{host}:{p}" for host in ("r1n3", "r1n4", "r2n3", "r2n4")
    ]
    # A job has ports of its own, below those of outgoing connections.
    jobs = {"SLURM_JOB_ID": "1001"}, {"SLURM_JOB_ID": str(199 * 5000 + 198)}
    found = [cluster(slurm("a", "2", 0) | job)[0] for job in jobs]
    assert found == [["a:20384", "a:20385"], ["a:32672", "a:32673"]]
    for nodes, tasks, rank in (("a,b", "1", 0), ("a", "1", 1), ("a", "1", "x")):
        with pytest.raises(InputError, match="SLURM_STEP_NODELIST="):
            cluster(slurm(nodes, tasks, rank))
    with pytest.raises(InputError, match="neither TF_CONFIG nor Slurm's variables are set"):
        cluster({"SLURM_PROCID": "0"})


def test_tf_config_names_the_group():
    def read(jobs, kind, index):
        config = {"cluster": jobs, "task": {"type": kind, "index": index}}
        return cluster({"TF_CONFIG": json.dumps(config)} | slurm("a", "1", 0))

    two = {"worker": ["a:1", "b:2"]}
    assert read(two, "worker", 1) == (["a:1", "b:2"], 1)
    assert read(two | {"chief": ["c:3"]}, "worker", 1) == (["c:3", "a:1", "b:2"], 2)
    assert read(two | {"chief": ["c:3"]}, "chief", 0) == (["c:3", "a:1", "b:2"], 0)
    assert read({"chief": ["c:3"]}, "chief", 0) == (["c:3"], 0)
    for jobs, kind, index, says in (
        (two, "worker", 2, "worker 2 of 2"),
        (two | {"chief": ["c:3"]}, "worker", -1, "worker -1 of 2"),
        (two | {"chief": ["c:3"]}, "chief", 1, "chief 1 of 1"),
        (two, "chief", 0, "'chief'"),
        (two, "evaluator", 0, "jobs other than chief and worker"),
        (two | {"ps": ["c:3"]}, "worker", 0, "jobs other than chief and worker"),
        ({"worker": ["a:1", "b"]}, "worker", 0, "no port in 'b'"),
    ):
        with pytest.raises(InputError, match=rf"TF_CONFIG=.*not understood \({says}\)"):
            read(jobs, kind, index)
    with pytest.raises(InputError, match=r"TF_CONFIG='nonsense': not understood"):
        cluster({"TF_CONFIG": "nonsense"})


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_what_signals_did_before_a_library_they_do_after_it(before):
    own = signal.signal(signal.SIGHUP, before)
    try:
        with handlers_replaced(lambda handler: handler):
            signal.signal(signal.SIGHUP, lambda *_: None)
        assert signal.getsignal(signal.SIGHUP) is before
    finally:
        signal.signal(signal.SIGHUP, own)


def test_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="one of auto, default, mirrored, multiworker, tpu"):
        make_strategy("horovod")


class Store:
    """Clips of noise, with a source or two; notes which were read."""

    names = tuple(f"{n}.wav" for n in range(24))

    def __init__(self):
        self.read_clips = set()

    def __len__(self):
        return len(self.names)

    def num_samples(self, clip):
        return 900 + clip

    def num_rows(self, clip):
        return 3

    def read(self, clip, start, count):
        self.read_clips.add(int(clip))
        rows = np.random.default_rng(int(clip)).normal(size=(3, 1000)).astype(np.float32)
        return rows[:, start : start + count]


@pytest.mark.parametrize("kind", ["recordings", "views", "clips"])
def test_the_parts_of_a_batch_are_the_batch_and_no_sound_is_read_twice(kind):
    def batches(store):
        if kind == "recordings":
            return RecordingBatches(
                store, np.arange(24), 12, 600, 7, 2, (-3.0, 3.0), 0.25, 2, 4, None, 3, 0.5
            )
        online = {"online_separators": 2, "clip_samples": 800} if kind == "clips" else {}
        channels = [] if online else [store, store]
        return ViewBatches(
            store, channels, 12, 300, 200, True, 5, 7, np.eye(24, 3, dtype=np.float32), **online
        )

    whole = batches(Store()).load(3)
    stores = [Store() for _ in range(2)]
    parts = [batches(store).load(3, n, 2) for n, store in enumerate(stores)]
    assert [list(part) for part in parts] == [list(whole)] * 2
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)
    assert len(stores[0].read_clips) == len(stores[1].read_clips) == 6
    assert not stores[0].read_clips & stores[1].read_clips


RUNS = """
import os, pathlib, signal, sys
assert sys.argv[-1] == "--restarts=0"
runs = pathlib.Path("runs")
done = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (done + 1))
status = STATUSES[done]
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("statuses", "restarts", "expected", "runs"),
    [
        ([0], 2, 0, 1),
        ([1], 2, 1, 1),  # wrong input stays wrong
        ([-signal.SIGKILL, LOST, 0], 2, 0, 3),
        ([-signal.SIGKILL, LOST, 0], 1, LOST, 2),
        ([-signal.SIGKILL], 0, 128 + signal.SIGKILL, 1),
    ],
)
def test_a_command_is_started_again_where_it_was_killed_or_lost_another(
    statuses, restarts, expected, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "RESTART_SECONDS", 0.01)
    script = RUNS.replace("STATUSES", repr([int(status) for status in statuses]))
    before = signal.getsignal(signal.SIGTERM)
    assert restarted([sys.executable, "-c", script], restarts) == expected
    assert signal.getsignal(signal.SIGTERM) == before
    assert len((tmp_path / "runs").read_text()) == runs
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == runs - 1
    if lines:
        assert lines[0] == (f"sepssl-train: ended by SIGKILL; starting it again, 1 of {restarts}")


@pytest.fixture(scope="module")
def alone(forks, tmp_path_factory):
    finished = forks.run(WORKERS, tmp_path_factory.mktemp("alone"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


def test_two_worker_processes_train_as_one(forks, alone, tmp_path):
    finished = forks.run(WORKERS, tmp_path, "--workers=2")
    assert finished.returncode == 0, finished.stderr[-3000:]
    chief = json.loads(finished.stdout.splitlines()[-1])
    other = json.loads((tmp_path / "other.json").read_text())
    for found in (chief, other):
        for name in ("losses", "norms"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5)
        for ours, theirs in zip(found["weights"], alone["weights"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        assert found["signals"] == [signal.SIGTERM]  # TensorFlow replaces handlers for a group
    assert max(alone["norms"]) > 0.5  # clipped, by the norm over both
    assert other["wrote_elsewhere"]
    assert not chief["wrote_elsewhere"]
    seen = "worker {} of 2 has found the checkpoint of step {}, others have not; expected a run's"
    apart = "was started with train.rate=0, but worker 1 of 2 with train.rate=1; expected the same"
    own = "another worker has ended or cannot be reached (UnknownError: FileNotFoundError: [Errno"
    assert seen.format(0, 4) in chief["refused"][1]
    for message, says in zip(other["refused"], (apart, seen.format(1, 6), own), strict=True):
        assert says in message


def test_a_worker_that_is_to_stop_waits_for_the_chief_to_save(forks, tmp_path):
    finished = forks.run(WORKERS, tmp_path, "--workers=2", "--signal-at=12")
    assert finished.returncode == 0, finished.stderr[-3000:]
    ended = [json.loads(line) for line in finished.stdout.splitlines()]
    done = read_metrics(tmp_path / "2" / "metrics.jsonl")[-1]["step"]
    assert 2 < done < 15  # batches are loaded ahead
    assert [p.name for p in (tmp_path / "2").glob("checkpoints/*.index")] == [f"ckpt-{done}.index"]
    assert sorted(process["worker"] for process in ended) == [0, 1]
    by_worker = {process["worker"]: process["ended"] for process in ended}
    assert by_worker[1] == "SystemExit(143)"
    assert by_worker[0].startswith("WorkerLost(")
    assert (
        f"another worker was stopped; start all of them again to continue after step {done}"
        in (by_worker[0])
    )
