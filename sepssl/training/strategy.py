"""Chooses the devices of a run, on one machine or several."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping

import tensorflow as tf

from sepssl.errors import InputError, WorkerLost
from sepssl.training.signals import handlers_replaced

NAMES = ("auto", "default", "mirrored", "multiworker", "tpu")
# Ports of workers under Slurm: 64 for each of 199 jobs, below 32768, where those begin that Linux
# gives to outgoing connections. Our choice.
SLURM_PORT, PORTS, JOBS = 20000, 64, 199
# What TensorFlow writes before the cause of an error.
FRAME = re.compile(r'Graph execution error|Detected at node|<stack traces|File "|\d+ root error')
# What TensorFlow raises where another worker has gone.
LOSSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """A strategy for this machine.

    Args:
        name: "default" for one device without replication; "mirrored" for one replica on every GPU
            or, without GPUs, on every logical CPU; "auto" for "mirrored" if there are several GPUs,
            else "default"; "multiworker" for one process of a group, see `cluster`, each with one
            replica on every GPU it sees; "tpu" for the TPU that TPU_NAME names, or the local one.
            The last two have to be made before TensorFlow computes anything.

    Raises:
        InputError: if `name` is not one of these, or there is no such group or TPU.
        WorkerLost: if the group cannot be formed: others do not come, or the port is in use.
    """
    if name not in NAMES:
        raise InputError(f"strategy={name!r}: expected one of {', '.join(NAMES)}")
    if name == "multiworker":
        workers, index = cluster(os.environ)
        try:
            with handlers_replaced(lambda handler: handler):
                return tf.distribute.MultiWorkerMirroredStrategy(_resolver(workers, index))
        except tf.errors.OpError as error:
            raise WorkerLost(
                f"worker {index} of {len(workers)}: the group could not be formed "
                f"({_in_short(error)}); expected all of them to start, {workers[index]} to be free"
            ) from error
    if name == "tpu":
        return _tpu_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "default" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def cluster(environment: Mapping[str, str]) -> tuple[list[str], int]:
    """The group of processes that this one belongs to.

    Taken from TF_CONFIG, as in TensorFlow's documentation of `MultiWorkerMirroredStrategy`, or else
    from the variables that Slurm's `srun` sets, where worker n on a machine listens on the port
    20000 + 64 * (SLURM_JOB_ID % 199) + n.

    Args:
        environment: of the process.

    Returns:
        The address of every worker, "host:port", and which of them this process is. The first is
        the chief.

    Raises:
        InputError: if neither is there, or one is not understood.
    """
    if text := environment.get("TF_CONFIG"):
        try:
            config = json.loads(text)
            jobs, task = config["cluster"], config["task"]
            if not set(jobs) | {task["type"]} <= {"chief", "worker"}:
                raise ValueError("jobs other than chief and worker")
            first = list(jobs.get("chief", []))
            workers = first + list(jobs.get("worker", []))
            index, own = int(task["index"]), len(jobs[task["type"]])
            if not 0 <= index < own:
                raise ValueError(f"{task['type']} {index} of {own}")
            index += len(first) * (task["type"] == "worker")
            if unlike := [name for name in workers if not re.fullmatch(r".+:\d+", name)]:
                raise ValueError(f"no port in {unlike[0]!r}")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            example = {
                "cluster": {"worker": ["HOST:PORT", "HOST:PORT"]},
                "task": {"type": "worker", "index": 0},
            }
            raise InputError(
                f"TF_CONFIG={text!r}: not understood ({error}); expected {json.dumps(example)}"
            ) from error
        return workers, index
    names = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID")
    if any(name not in environment for name in names):
        raise InputError(
            "strategy='multiworker': neither TF_CONFIG nor Slurm's variables are set; expected "
            "TF_CONFIG, or the start by srun"
        )
    nodes, counts, rank = (environment[name] for name in names)
    job = environment.get("SLURM_JOB_ID", "")
    port = SLURM_PORT + PORTS * (int(job) % JOBS if job.isdecimal() else 0)
    hosts, tasks = _slurm_hosts(nodes), _slurm_counts(counts)
    workers = [
        f"{host}:{port + task}"
        for host, count in zip(hosts, tasks, strict=False)
        for task in range(count)
    ]
    if len(hosts) != len(tasks) or not rank.isdecimal() or int(rank) >= len(workers):
        raise InputError(
            f"SLURM_STEP_NODELIST={nodes}, SLURM_STEP_TASKS_PER_NODE={counts}, "
            f"SLURM_PROCID={rank}: expected a count for every machine, and a rank below their sum"
        )
    return workers, int(rank)


def _slurm_hosts(text: str) -> list[str]:
    """ "n[1-2,05],m" -> n1, n2, n05, m: in Slurm's order, which is that of ranks."""
    hosts = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for literal, ranges in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            found = [literal] if literal else []
            for piece in ranges.split(",") if ranges else ():
                low, _, high = piece.partition("-")
                numbers = range(int(low), int(high or low) + 1)
                found += [str(number).zfill(len(low)) for number in numbers]
            names = [name + end for name in names for end in found]
        hosts += names
    return hosts


def _slurm_counts(text: str) -> list[int]:
    """ "2(x3),1" -> 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def _resolver(workers: list[str], index: int) -> tf.distribute.cluster_resolver.ClusterResolver:
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": workers}),
        task_type="worker",
        task_id=index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        name = os.environ.get("TPU_NAME", "local")
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise InputError(f"strategy='tpu': no TPU could be reached ({_in_short(error)})") from error
    return tf.distribute.TPUStrategy(resolver)


def require_one_process(names: Iterable[str | None]) -> None:
    """Raises InputError if a strategy is one for a group of processes.

    For several trainings, one after the other, with work in between that a group would do at once.
    """
    if "multiworker" in names:
        raise InputError(
            "train.strategy='multiworker': a group trains one separator or one encoder by "
            "sepssl-train; expected another strategy where several are trained"
        )


def worker_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Which worker this process is, and how many there are; (0, 1) unless there are several."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    return resolver.task_id, len(resolver.cluster_spec().job_tasks("worker"))


def meet(strategy: tf.distribute.Strategy) -> None:
    """Waits for the other workers.

    Raises:
        WorkerLost: if one has ended.
    """
    if worker_of(strategy)[1] > 1:
        with lost_workers_named(strategy):
            count = tf.function(lambda: strategy.run(lambda: tf.ones([])), autograph=False)
            strategy.reduce(tf.distribute.ReduceOp.SUM, count(), axis=None)


def require_same_step(strategy: tf.distribute.Strategy, step: int) -> None:
    """Raises InputError unless all workers have done the same number of steps.

    Args:
        strategy: of the run; all its workers call this.
        step: of this worker.
    """
    worker, workers = worker_of(strategy)
    if workers > 1:
        here = tf.function(
            lambda: strategy.run(lambda: tf.constant(step, tf.float64)), autograph=False
        )
        mean = float(strategy.reduce(tf.distribute.ReduceOp.MEAN, here(), axis=None))
        if mean != step:
            raise InputError(
                f"worker {worker} of {workers} has found the checkpoint of step {step}, others "
                "have not; expected a run's folder that all workers share"
            )


@contextlib.contextmanager
def lost_workers_named(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Raises WorkerLost where the other workers of several cannot be reached any more."""
    try:
        yield
    except LOSSES as error:
        worker, workers = worker_of(strategy)
        if workers == 1:
            raise
        raise WorkerLost(
            f"worker {worker} of {workers}: another worker has ended or cannot be reached "
            f"({_in_short(error)}); start all of them again to continue at the last checkpoint"
        ) from error


def _in_short(error: Exception) -> str:
    """Type of an error and the line that tells the cause, at most 200 characters of it.

    A process's own failures come as lost workers too.
    """
    text = re.sub(r"\{\{function_node .*?\}\}", "", str(error))
    lines = [line.strip() for line in text.splitlines()]
    line = next((line for line in lines if line and not FRAME.match(line)), "")[:200]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def require_pairs_on_every_replica(
    batch_size: int, strategy: tf.distribute.Strategy, parts: int = 1
) -> None:
    """Raises InputError unless a global batch splits into equal, even parts.

    Neighbours in a batch must stay together: MixIT adds them up, example mixing mixes them.

    Args:
        batch_size: of the global batch.
        strategy: whose replicas share it.
        parts: that each replica computes one after the other.
    """
    multiple = 2 * strategy.num_replicas_in_sync * parts
    if batch_size < multiple or batch_size % multiple:
        raise InputError(
            f"train.batch_size={batch_size}: expected a multiple of {multiple}"
            + (f" with train.gradient_accumulation_steps={parts}" if parts > 1 else "")
        )
