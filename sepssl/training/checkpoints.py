"""The folder of a run: its configuration, checkpoints to resume from, and results."""

import collections
import contextlib
import fnmatch
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import soundfile
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from sepssl.errors import InputError, OutputError
from sepssl.files import atomic_file, lock_folder, write_failure
from sepssl.serialization import save_model
from sepssl.training.added_keys import without_added_keys
from sepssl.training.learner import Learner
from sepssl.training.monitors import plain_json
from sepssl.training.strategy import meet, worker_of
from sepssl.version import __version__

KEPT_CHECKPOINTS = 2
# What a run's folder may hold before anything was trained: stores of clips, which other runs can
# use too, and what the next start writes anew.
UNTRAINED = (
    *("config.json", "versions.json", "metrics.jsonl", "clips.json", "views.png", "tensorboard"),
    *("step-0000000.*", "clips-*", "channels-*", "sources-*", ".*"),
)
_CHECKPOINT_FILE = re.compile(r"(?P<name>ckpt-(?P<step>\d+))\.(index|data-\d{5}-of-\d{5})")
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # TensorFlow's name for a variable's value in a checkpoint


class RunFolder:
    """A run directory, new or to be continued.

    Contains `config.json`, `versions.json`, `metrics.jsonl`, `checkpoints/` (to resume from),
    `states/step-NNNNNNN.keras` (the convergence states kept; beside each its metrics and, of a
    separator, an example: a wav file of a clip and its channels), `final.keras`, `tensorboard/`.

    The folder belongs to a configuration from the first checkpoint on: a start that failed before
    leaves it to the next one. More steps than planned may be asked for: they make a new phase of
    the run, whose `config.json` then lists in "phases" where earlier ones ended or will end. Until
    its first checkpoint, another number of steps can be asked for, and the former one again.

    Args:
        path: the folder; created if it does not exist.
        config: everything the run depends on, as nested dicts of plain values.
        verbose: whether to print what changes in a run that is continued.

    Raises:
        InputError: if the folder belongs to a run with another configuration, is not a run's, or
            another process is working in it with another configuration.

    Attributes:
        phases: ends of all phases but the last, in steps.
        checkpoints: folder of the checkpoints.
        chief: whether this process writes them; see `run_of_worker`.
    """

    def __init__(self, path: str | os.PathLike, config: dict, verbose: bool = True):
        self.path = pathlib.Path(path)
        self._verbose = verbose
        self.config = json.loads(json.dumps(config))
        self._locked = False
        self.phases: list[int] = []
        self.checkpoints = self.path / "checkpoints"
        self.chief = True
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; expected a folder for the run")
        config_path = self.path / "config.json"
        if config_path.exists():
            there = _read_config(config_path)
            self.phases = there.pop("phases", [])
            if difference := _difference(there, self.config):
                # Another program's config.json has other keys.
                if there.keys() == self.config.keys() and self._is_untrained():
                    self._start_anew()
                elif (phases := self._other_phases(there)) is not None:
                    self._change_phases(phases)
                else:
                    was, now = difference
                    raise InputError(
                        f"{self.path}: holds a run with {was}, now {now}; expected the same "
                        "configuration to continue it, or another folder"
                    )
        elif self.path.exists() and any(self.path.iterdir()):
            raise InputError(
                f"{self.path}: holds files but no config.json of a run; expected a new or empty "
                "folder, or a run to continue"
            )
        else:
            self._write_config()

    def _other_phases(self, there: dict) -> list[int] | None:
        """Ends of the phases before the last, if the run there can go on to the steps here."""
        old, new = there, self.config
        if "steps" not in old:
            old, new = ({"train": None, **config}["train"] for config in (old, new))
        if not isinstance(old, dict) or not isinstance(new, dict):
            return None
        planned, wanted = old.get("steps"), new.get("steps")
        if not isinstance(planned, int) or not isinstance(wanted, int):
            return None
        changed = {key: new[key] for key in ("steps", "state_steps") if key in new}
        other = {**there, "train": old | changed} if old is not there else there | changed
        if _difference(other, self.config):
            return None
        begun = max(_steps_of_checkpoints(self.checkpoints), default=0)
        if self.phases and begun <= self.phases[-1] <= wanted:  # nothing is lost of the last one
            return [end for end in self.phases if end < wanted]
        return [*self.phases, planned] if planned < wanted else None

    def _change_phases(self, phases: list[int]) -> None:
        with self.lock():
            before, self.phases = self.phases, phases
            if len(phases) > len(before) and self.final.exists():
                # What it is after the steps planned so far stays as a state. One that is there is
                # the network as trained, which the final one need not be.
                kept = self.state(phases[-1])
                kept.parent.mkdir(exist_ok=True)
                if kept.exists():
                    self.final.unlink()
                else:
                    os.replace(self.final, kept)
            self._write_config()  # before there is a final.keras, which would end a phase
        if self._verbose:
            which, end = ("no", before[-1]) if len(phases) < len(before) else ("a", phases[-1])
            print(f"{self.path}: {which} new phase follows step {end}", flush=True)

    def _write_config(self) -> None:
        config = self.config | ({"phases": self.phases} if self.phases else {})
        with atomic_file(self.path / "config.json", overwrite=True) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")

    def _is_untrained(self) -> bool:
        """Whether all that the folder holds was there before the first checkpoint."""
        within = [self.path / name for name in ("checkpoints", "states")]
        there = [entry for entry in self.path.iterdir() if entry not in within]
        there += [entry for folder in within for entry in folder.glob("*")]
        return all(any(fnmatch.fnmatch(e.name, name) for name in UNTRAINED) for e in there)

    def _start_anew(self) -> None:
        self.phases = []
        with self.lock():  # not while another process is at its first step
            for file in (self.path / "clips.json", *(self.path / "states").glob("*")):
                file.unlink(missing_ok=True)
            self._write_config()
        if self._verbose:
            print(f"{self.path}: the run there had trained nothing yet; starting anew", flush=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from working in the folder; may be nested.

        Raises:
            InputError: if another process is working in it.
        """
        if self._locked:
            yield
            return
        with lock_folder(self.path, wait=False):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def record_versions(self, step: int) -> None:
        """Records the versions that train from a step on, and prints those that have changed.

        `versions.json` is a list of {"step", "sepssl", "keras", "tensorflow"}.
        """
        now = {"sepssl": __version__, "keras": keras.__version__, "tensorflow": tf.__version__}
        path = self.path / "versions.json"
        try:
            before = [dict(record) for record in json.loads(path.read_text())]
        except (OSError, ValueError, TypeError, RecursionError):
            before = []  # missing in an older run, or damaged: the run does not depend on it
        if before and {key: before[-1].get(key) for key in now} == now:
            return
        if before and self._verbose:
            changed = ", ".join(
                f"{key} {before[-1].get(key)} is now {now[key]}"
                for key in now
                if before[-1].get(key) != now[key]
            )
            print(f"{self.path}: {changed}; results may differ from here on", flush=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps([*before, {"step": step} | now], indent=2) + "\n")

    @property
    def final(self) -> pathlib.Path:
        return self.path / "final.keras"

    def state(self, step: int) -> pathlib.Path:
        """Where the convergence state of a step is kept."""
        return self.path / "states" / f"step-{step:07d}.keras"

    def states(self) -> list[pathlib.Path]:
        """The kept states, from the earliest to the latest."""
        return sorted((self.path / "states").glob("step-*.keras"))

    def keep_state(self, model: keras.Model, step: int, metrics: dict[str, float]) -> None:
        """Saves a state and its metrics; a resumed run overwrites the states it reaches again."""
        save_model(model, self.state(step), overwrite=True)
        with atomic_file(self.state(step).with_suffix(".json"), overwrite=True) as temporary:
            temporary.write_text(plain_json({"step": step} | metrics, indent=2) + "\n")

    def keep_sounds(self, tracks: np.ndarray, sample_rate: int, step: int) -> None:
        """Saves what a state makes of an example, float32 [tracks, samples], as one wav file."""
        with atomic_file(self.state(step).with_suffix(".wav"), overwrite=True) as temporary:
            soundfile.write(temporary, tracks.T, sample_rate, "FLOAT")


@contextlib.contextmanager
def run_of_worker(
    path: str | os.PathLike, config: dict, verbose: bool, strategy: tf.distribute.Strategy
) -> Iterator[RunFolder]:
    """The run's folder, locked. Of several workers the chief alone writes there.

    What the others write goes to a folder that is removed in the end; they restore the chief's
    checkpoints, and need to see its folder.

    Args:
        path, config, verbose: as `RunFolder`'s.
        strategy: of the run.

    Raises:
        InputError: as `RunFolder` and `RunFolder.lock`, or if a worker does not see the chief's
            folder or has another configuration than the chief.
    """
    worker, workers = worker_of(strategy)
    if worker == 0:
        run = RunFolder(path, config, verbose)
        with run.lock():  # before hours of decoding, that two processes would do twice
            meet(strategy)
            yield run
            meet(strategy)  # a process that ends takes the others with it
        return
    meet(strategy)
    there = pathlib.Path(path)
    if not (there / "config.json").exists():
        raise InputError(
            f"{there}: worker {worker} of {workers} does not see what the first one has written "
            "there; expected a folder that all workers share"
        )
    with tempfile.TemporaryDirectory(prefix="sepssl-worker-") as scratch:
        run = RunFolder(os.path.join(scratch, "run"), config, verbose=False)
        run.chief, run.checkpoints = False, there / "checkpoints"
        chiefs = _read_config(there / "config.json")
        run.phases = chiefs.pop("phases", [])
        if difference := _difference(chiefs, run.config):
            raise InputError(
                f"{there}: was started with {difference[0]}, but worker {worker} of {workers} with "
                f"{difference[1]}; expected the same configuration on all workers"
            )
        with run.lock():
            yield run
            meet(strategy)


class Resume:
    """Checkpoints that resume a run exactly where it stopped.

    They contain all variables of model and optimizer, including the states of random generators,
    which checkpoints of Keras objects omit; each is stored under its own path, so that none can
    take another's value. A checkpoint is `checkpoints/ckpt-STEP.data-*`, written first, and
    `ckpt-STEP.index`: if there is an index, it is complete.

    Args:
        run: the run's folder.
        learner: a built and compiled model, its optimizer built.
        keep: how many of the latest checkpoints are kept, 1 or more.
    """

    def __init__(self, run: RunFolder, learner: Learner, keep: int = KEPT_CHECKPOINTS):
        self._folder = run.checkpoints
        self._writes = run.chief
        self._learner = learner
        self._keep = keep
        self.step = tf.Variable(0, dtype=tf.int64)
        model, optimizer = variable_keys(learner.variables, learner.optimizer.variables)
        self._checkpoint = tf.train.Checkpoint(
            step=self.step,
            model={key: v.value for key, v in model.items()},
            optimizer={key: v.value for key, v in optimizer.items()},
        )

    @property
    def latest(self) -> str | None:
        """Path of the last checkpoint."""
        steps = _steps_of_checkpoints(self._folder)
        return str(self._folder / f"ckpt-{steps[-1]}") if steps else None

    def latest_before(self, step: int) -> str | None:
        """Path of the last checkpoint of an earlier step."""
        steps = [earlier for earlier in _steps_of_checkpoints(self._folder) if earlier < step]
        return str(self._folder / f"ckpt-{steps[-1]}") if steps else None

    def restore(self) -> int:
        """Restores the last checkpoint, if there is one; returns the steps done.

        Raises:
            InputError: if the checkpoint is damaged or belongs to another network.
        """
        latest = self.latest
        if latest is None:
            return 0
        try:
            reader = tf.train.load_checkpoint(latest)
            if reader.has_tensor(f"model/0/{VALUE}"):
                self._restore_by_position(latest, reader)
            else:
                self._checkpoint.read(latest).assert_consumed()
        except Exception as error:  # TensorFlow raises many kinds for a damaged file.
            raise InputError(
                f"{latest}: could not be restored ({_reason(error)}); expected a checkpoint of the "
                "same network"
            ) from error
        return int(self.step.numpy())

    def _restore_by_position(self, path: str, reader: Any) -> None:
        """Restores one from version 0.1.0, whose lists must match today's variables in order."""
        model, optimizer = self._learner.variables, self._learner.optimizer.variables
        graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        names = {a.checkpoint_key: a.full_name for node in graph.nodes for a in node.attributes}
        kept = [names.get(f"model/{position}/{VALUE}", "") for position in range(len(model))]
        for ours, theirs in zip(_keys([v.path for v in model]), _keys(kept), strict=True):
            if ours != theirs:
                raise ValueError(f"{theirs or 'nothing'} where {ours} was expected")
        tf.train.Checkpoint(
            step=self.step, model=[v.value for v in model], optimizer=[v.value for v in optimizer]
        ).restore(path).assert_consumed()

    def save(self, step: int) -> None:
        """Saves after `step` steps and removes all but the latest checkpoints; the chief does."""
        self.step.assign(step)
        if not self._writes:
            return
        writing = self._folder / ".writing"
        try:
            shutil.rmtree(writing, ignore_errors=True)  # left by a process that was killed
            written = pathlib.Path(self._checkpoint.write(str(writing / f"ckpt-{step}")))
            files = sorted(writing.glob(f"{written.name}.*"))  # .data before .index
            for file in files:
                with open(file, "rb+") as content:
                    os.fsync(content.fileno())  # else a power cut could leave names alone
            for file in files:
                os.replace(file, self._folder / file.name)
            _flush_folder(self._folder)  # before what it replaces is removed
            writing.rmdir()
            kept = {f"ckpt-{s}" for s in _steps_of_checkpoints(self._folder)[-self._keep :]}
            # The index first: without it, the rest is not a checkpoint, as where a process was
            # killed between the two.
            for file in sorted(self._folder.iterdir(), reverse=True):
                own = _CHECKPOINT_FILE.fullmatch(file.name)
                if own and own["name"] not in kept:
                    file.unlink()
        except (OSError, tf.errors.OpError) as error:
            raise OutputError(
                f"{self._folder}: checkpoint could not be written: {write_failure(error)}"
            ) from error


def _flush_folder(folder: pathlib.Path) -> None:
    """Writes a folder's names to the disk, with systems that can open one."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _steps_of_checkpoints(folder: pathlib.Path) -> list[int]:
    # From the folder's content, not from its text file "checkpoint", which could name any file.
    found = (_CHECKPOINT_FILE.fullmatch(path.name) for path in folder.glob("*.index"))
    return sorted(int(own["step"]) for own in found if own)


def variable_keys(
    model: Sequence[keras.Variable], optimizer: Sequence[keras.Variable]
) -> tuple[dict[str, keras.Variable], dict[str, keras.Variable]]:
    """The variables of a model and its optimizer by names that are the same in every process.

    These are their paths, except that the numbers which Keras appends to names ("dense_7") restart
    from 0 among siblings, since they depend on what else a process has created. The key of an
    optimizer's slot is that of its variable, a colon and the slot's name.
    """
    keys = _keys([v.path for v in model])
    # Optimizers name a slot by its variable's path, without slashes.
    flat = {v.path.replace("/", "_"): key for v, key in zip(model, keys, strict=True)}
    slots = []
    for variable in optimizer:
        owner = max((f for f in flat if variable.name.startswith(f + "_")), key=len, default=None)
        slots.append(f"{flat[owner]}:{variable.name[len(owner) + 1 :]}" if owner else variable.name)
    return _by_key(keys, model), _by_key(slots, optimizer)


def _keys(paths: Sequence[str]) -> list[str]:
    """Paths with the numbers in names restarted from 0."""
    split = [[_numbered(part) for part in path.split("/")] for path in paths]
    numbers = collections.defaultdict(set)
    for parts in split:
        for depth, (name, number) in enumerate(parts):
            numbers[(*parts[:depth], name)].add(number)
    keys = []
    for parts in split:
        ranked = []
        for depth, (name, number) in enumerate(parts):
            rank = sorted(numbers[(*parts[:depth], name)]).index(number)
            ranked.append(f"{name}_{rank}" if rank else name)
        keys.append("/".join(ranked))
    return keys


def _numbered(name: str) -> tuple[str, int]:
    """ "dense_7" -> ("dense", 7); "dense" -> ("dense", 0)."""
    match = re.fullmatch(r"(.+)_(\d{1,9})", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _by_key(keys: Sequence[str], variables: Sequence[keras.Variable]) -> dict:
    """Appends a number to all but the first of equal keys."""
    found: dict[str, keras.Variable] = {}
    for key, variable in zip(keys, variables, strict=True):
        same = sum(other.split("#")[0] == key for other in found)
        found[f"{key}#{same}" if same else key] = variable
    return found


def _difference(there: dict, here: dict) -> tuple[str, str] | None:
    """The first key in which two configurations differ, with both values in words, if any."""
    old, new = (_flat(without_added_keys(config)) for config in (there, here))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            was, now = (
                f"{key}={config[key]!r}" if key in config else f"no {key}"
                for config in (_flat(there), _flat(here))
            )
            return was, now
    return None


def _read_config(path: pathlib.Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not the configuration of a run ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: is not the configuration of a run; expected a JSON object")
    return config


def _reason(error: Exception) -> str:
    """The first line of a message; only its end, which names the cause, if it is long."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return "".join(c for c in line if c.isprintable())[-200:]


def _flat(config: dict, prefix: str = "") -> dict:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
