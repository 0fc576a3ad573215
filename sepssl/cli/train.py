"""Trains a separator or an encoder, or a table of encoders.

sepssl-train --config=FILE --workdir=DIR [--config.key=value ...]

FILE is a configuration in Python, or the name of one that comes with the package, as
"separator_small" or "encoder_small".

A run that was stopped continues at its last checkpoint when the command is repeated. Ctrl-C and
SIGTERM have one written; after SIGTERM, as schedulers send it, the exit status is 0.

Example:
  sepssl-train --config=separator_small --workdir=separator --config.data.directory=recordings

Results: DIR/final.keras, the model; DIR/states, what it was on the way; DIR/report.html, to open in
a browser; DIR/metrics.jsonl and DIR/tensorboard.

Next:
  sepssl-train --config=encoder_small --workdir=encoder --config.views.separators=small
  sepssl-separate --separator=separator/final.keras --input=recordings --output=channels
  sepssl-embed --encoder=encoder/final.keras --input=recordings --output=index
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from sepssl.cli.checks import require_folder_or_new
from sepssl.cli.config_keys import missing, shipped
from sepssl.cli.main import import_quietly, prefer_onednn
from sepssl.cli.main import run as run_command
from sepssl.errors import InputError, WorkerLost
from sepssl.training.signals import handlers_replaced

TENSORFLOW = False  # nor does a process need it that starts others
RESUMES = True
LOST = 75  # exit status where another worker has ended: EX_TEMPFAIL
# Schedulers kill 30 s after SIGTERM, or later.
STUCK_SECONDS = 15.0
RESTART_SECONDS = 3.0  # for the ports and locks of those that ended
# What the configuration of each task consists of.
TASKS = {
    "separator": ("data", "separator", "train"),
    "encoder": ("data", "views", "encoder", "objective", "train"),
    "supervised": ("data", "views", "encoder", "objective", "train"),
    "ablation": ("separator", "encoder", "evaluation", "rows"),
}


def define_flags(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration, a Python file like those in configs/, or the name of one of them.",
        lock_config=True,
        flag_values=values,
    )
    flags.mark_flag_as_required("config", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, new or to be continued.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "restarts",
        0,
        "How often to start the training again, at its last checkpoint, where it was killed or has "
        "lost another worker.",
        lower_bound=0,
        flag_values=values,
    )


def expanded(argv: Sequence[str]) -> list[str]:
    """The arguments, with the file of a configuration in the place of its name.

    Raises:
        flags.Error: if several configurations are given.
    """
    arguments = [argv[0], *flags.FLAGS.read_flags_from_files(list(argv[1:]), force_gnu=False)]
    given = []
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        place = i if equals else i + 1
        value = value if equals else "".join(arguments[place : place + 1])
        given.append(value)
        name, colon, rest = value.partition(":")
        if name in shipped() and not pathlib.Path(name).is_file():
            path = f"{shipped()[name]}{colon}{rest}"
            arguments[place] = f"{flag}={path}" if equals else path
    # absl would fail at the values set by --config.KEY, with other words.
    if len(given) > 1:
        listed = ", ".join(given)
        raise flags.Error(
            f"--config: is given {len(given)} times ({listed}); expected one configuration"
        )
    return arguments


def check(values: flags.FlagValues) -> None:
    path = config_flags.get_config_filename(values["config"]).partition(":")[0]
    if not pathlib.Path(path).is_file():
        raise InputError(missing(path))
    task = values.config.get("task")
    if task not in TASKS:
        raise InputError(f"task={task!r}: expected one of {', '.join(TASKS)}")
    absent = [part for part in TASKS[task] if part not in values.config]
    if absent:
        raise InputError(
            f"{path}: has no {absent[0]}, which task={task!r} needs; expected the configuration "
            f"of a task {task!r}"
        )
    require_folder_or_new(values.workdir, "for the run")


def main(values: flags.FlagValues) -> int:
    if values.restarts:
        command = [sys.executable, "-m", "sepssl.cli.train", *sys.argv[1:]]
        return restarted(command, values.restarts)
    prefer_onednn()
    import_quietly("tensorflow")
    _end_if_stuck(values)
    try:
        if _train(values):
            return 0
        status = 0
    except WorkerLost as error:
        print(f"sepssl-train: error: {error}", file=sys.stderr)
        status = LOST
    # Not by Python's end, in which TensorFlow waits a minute for a chief that has gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def restarted(command: list[str], restarts: int) -> int:
    """Runs a training again where it was killed or has lost another worker.

    Args:
        command: program and arguments; `--restarts=0` is added.
        restarts: how often at most.

    Returns:
        The last exit status; 128 and the number of the signal for a process that was killed.
    """
    child: subprocess.Popen | None = None
    stopped = False

    def pass_on(number, _):
        nonlocal stopped
        stopped = True
        if child:
            child.send_signal(number)

    with handlers_replaced(lambda _: pass_on):
        for restart in range(restarts + 1):
            # In a session of its own: a terminal's signals reach it once, through this process.
            child = subprocess.Popen([*command, "--restarts=0"], start_new_session=True)
            if stopped:  # before there was a child
                child.terminate()
            status = child.wait()
            if stopped or (status >= 0 and status != LOST) or restart == restarts:
                break
            how = f"by {signal.Signals(-status).name}" if status < 0 else "without another worker"
            print(
                f"sepssl-train: ended {how}; starting it again, {restart + 1} of {restarts}",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(RESTART_SECONDS)
            if stopped:
                break
    return 128 - status if status < 0 else status


def _train(values: flags.FlagValues) -> bool:
    """Trains; returns whether this process is the only one, or the chief of several."""
    config, workdir = values.config, values.workdir
    if config.task == "ablation":
        from sepssl.pipelines.ablation import run_ablation

        folder = run_ablation(config, workdir)
        print(f"table: {folder / 'table.md'}; figure: {folder / 'figure.svg'}")
        return True
    from sepssl.reports.training import write_training_report
    from sepssl.training.encoder import train_encoder
    from sepssl.training.separator import train_separator

    finished = (train_separator if config.task == "separator" else train_encoder)(config, workdir)
    if not finished.chief:
        return False
    print(f"{config.task}: {finished.final}")
    print(f"states: {finished.path / 'states'}; metrics: {finished.path / 'metrics.jsonl'}")
    print(f"report, to open in a browser: {write_training_report(finished)}")
    board = shlex.quote(f"--logdir={finished.path / 'tensorboard'}")
    print(f"sounds and curves: tensorboard {board}")
    return True


def _end_if_stuck(values: flags.FlagValues) -> None:
    """Ends the process some time after a SIGTERM that Python cannot handle.

    It can do so between calls of TensorFlow alone, one of which may compile a step for a minute.
    That is for the first step, with which nothing is lost. Later ones have `unsaved_work`, and the
    process lives until the call is over and a checkpoint is written.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler):  # the caller is no command, or ignores it
        return
    handled = threading.Event()

    def handle(number, frame):
        handled.set()
        handler(number, frame)

    signal.signal(signal.SIGTERM, handle)
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

    def watch():
        while os.read(readable, 1)[0] != signal.SIGTERM:
            pass
        if not handled.wait(STUCK_SECONDS) and signal.getsignal(signal.SIGTERM) is handle:
            line = f"sepssl-train: stopped by SIGTERM; {stopped(values)}\n"
            os.write(2, line.encode())
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def stopped(values: flags.FlagValues) -> str:
    """What is left of a run that a signal ended."""
    steps = [
        int(file.stem.partition("-")[2])
        for file in pathlib.Path(values.workdir, "checkpoints").glob("ckpt-*.index")
    ]
    if not steps:
        if next(pathlib.Path(values.workdir).glob("*/**/checkpoints/ckpt-*.index"), None):
            # A table of trainings, each in a folder of its own.
            return "what is finished is kept; repeat the command to continue"
        return "no checkpoint of a training has been written yet"
    return f"the last checkpoint is that of step {max(steps)}; repeat the command to continue"


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
