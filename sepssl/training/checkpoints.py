"""The folder of a run: its configuration, what to resume from, what it keeps."""

import json
import os
import pathlib

import tensorflow as tf

from sepssl.errors import InputError, OutputError
from sepssl.files import atomic_file, write_failure
from sepssl.serialization import save_model
from sepssl.training.added_keys import without_added_keys


class RunFolder:
    """A run directory, new or to be continued.

    Holds `config.json`, `metrics.jsonl`, `checkpoints/` (to resume), `states/step-NNNNNNN.keras`
    with its metrics beside it (the kept convergence states), `final.keras`, `tensorboard/`.

    Args:
        path: the folder; made if it does not exist.
        config: what the run depends on, as nested dicts of plain values.

    Raises:
        InputError: if the folder belongs to a run of another configuration, or to something else.
    """

    def __init__(self, path: str | os.PathLike, config: dict):
        self.path = pathlib.Path(path)
        self.config = json.loads(json.dumps(config))
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; expected a folder for the run")
        config_path = self.path / "config.json"
        if config_path.exists():
            self._require_same_config(config_path)
        elif self.path.exists() and any(self.path.iterdir()):
            raise InputError(
                f"{self.path}: holds files but no config.json of a run; expected a new or empty "
                "folder, or a run to continue"
            )
        else:
            with atomic_file(config_path) as temporary:
                temporary.write_text(json.dumps(self.config, indent=2) + "\n")

    def _require_same_config(self, path: pathlib.Path) -> None:
        try:
            there = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not the configuration of a run ({error})") from error
        if not isinstance(there, dict):
            raise InputError(f"{path}: is not the configuration of a run; expected a JSON object")
        there, here = (_flat(without_added_keys(config)) for config in (there, self.config))
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                old, new = (
                    f"{key}={config[key]!r}" if key in config else f"no {key}"
                    for config in (there, here)
                )
                raise InputError(
                    f"{self.path}: holds a run with {old}, now {new}; expected the same "
                    "configuration to continue it, or another folder"
                )

    @property
    def final(self) -> pathlib.Path:
        return self.path / "final.keras"

    def state(self, step: int) -> pathlib.Path:
        """Where the convergence state of a step is kept."""
        return self.path / "states" / f"step-{step:07d}.keras"

    def states(self) -> list[pathlib.Path]:
        """The kept states, early to late."""
        return sorted((self.path / "states").glob("step-*.keras"))

    def keep_state(self, model, step: int, metrics: dict[str, float]) -> None:
        """Saves a state and its metrics; a state of a resumed run is written anew."""
        save_model(model, self.state(step), overwrite=True)
        with atomic_file(self.state(step).with_suffix(".json"), overwrite=True) as temporary:
            temporary.write_text(json.dumps({"step": step} | metrics, indent=2) + "\n")


class Resume:
    """What is needed to go on exactly where a run stopped.

    All variables of model and optimizer, the states of random generators among them, which
    checkpoints of Keras objects leave out.

    Args:
        run: where the checkpoints lie.
        learner: a built and compiled model, its optimizer built.
    """

    def __init__(self, run: RunFolder, learner):
        self.step = tf.Variable(0, dtype=tf.int64)
        self._checkpoint = tf.train.Checkpoint(
            step=self.step,
            model=[v.value for v in learner.variables],
            optimizer=[v.value for v in learner.optimizer.variables],
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(run.path / "checkpoints"), max_to_keep=2
        )

    @property
    def latest(self) -> str | None:
        """Path of the last checkpoint."""
        return self._manager.latest_checkpoint

    def restore(self) -> int:
        """Restores the last checkpoint, if there is one; returns the steps done.

        Raises:
            InputError: if the checkpoint is damaged or of another network.
        """
        if self.latest is None:
            return 0
        try:
            self._checkpoint.restore(self.latest).assert_consumed()
        except (ValueError, AssertionError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise InputError(
                f"{self.latest}: could not be restored ({reason}); expected a checkpoint of the "
                "same network"
            ) from error
        return int(self.step.numpy())

    def save(self, step: int) -> None:
        """Saves after `step` steps."""
        self.step.assign(step)
        try:
            self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            raise OutputError(
                f"{self._manager.directory}: checkpoint could not be written: "
                f"{write_failure(error)}"
            ) from error


def _flat(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
