"""What only processes of their own show: start-up, signals, what TensorFlow writes to stderr."""

import functools
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Not inherited from the tests' own TensorFlow: the entry point sets it.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}

WITHOUT_TENSORFLOW = """
import contextlib, importlib, io, pathlib, sys, time
from absl import flags
from sepssl.cli.main import execute, parse

began = time.process_time()
def outcome(name, *arguments):
    command = importlib.import_module(f"sepssl.cli.{name}")
    sys.argv = [f"sepssl-{name}", *arguments]
    values = flags.FlagValues()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            parse(command, values, sys.argv)
            return execute(command, values), out.getvalue()
        except SystemExit as stop:
            return stop.code, out.getvalue()

for file in sorted(pathlib.Path(importlib.import_module("sepssl.cli").__path__[0]).glob("*.py")):
    if "def define_flags" in file.read_text() and file.stem != "main":
        status, text = outcome(file.stem, "--help")
        assert status == 0, file
        assert text.startswith(importlib.import_module(f"sepssl.cli.{file.stem}").__doc__.strip())
        assert "--output:" in text or "--workdir:" in text
        assert outcome(file.stem, "--wrong=1")[0] == 1
assert outcome("embed", "--encoder=none.keras", "--input=none", "--output=out.npz")[0] == 1
assert outcome("export", "--encoder=none.keras", "--output=out")[0] == 1
assert not {"tensorflow", "keras"} & set(sys.modules)
print(time.process_time() - began)
"""


ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
REFUSED_TRAINING = """
import sys

from absl import flags

from sepssl.cli import train
from sepssl.cli.main import parse
from sepssl.errors import InputError

config = ["--config=separator_smoke", "--config.separator.hop=300"]
sys.argv = ["sepssl-train", *config, "--workdir=/tmp/no/such"]
values = flags.FlagValues()
parse(train, values, sys.argv)
try:
    train.main(values)
except InputError:
    from tensorflow.python.util import _pywrap_util_port

    print(_pywrap_util_port.IsMklEnabled())
"""
QUICKSTART = """
import os
import sys

from absl import flags

from sepssl.cli import quickstart
from sepssl.cli.main import parse

values = flags.FlagValues()
parse(quickstart, values, ["", "--workdir=/tmp/no/such", *sys.argv[1:]])
quickstart.check(values)
assert "tensorflow" not in sys.modules
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
"""


def test_help_and_mistakes_take_no_tensorflow():
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 3.0  # all commands together
    assert "Traceback" not in process.stderr


def of_process(script, *arguments, **variables):
    environment = {k: v for k, v in ENVIRONMENT.items() if k != ONEDNN} | variables
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert process.stderr == ""
    return process.stdout.strip()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="for x86")
def test_trainings_use_onednn_unless_the_environment_says_otherwise():
    assert of_process(REFUSED_TRAINING) == "True"
    assert of_process(REFUSED_TRAINING, **{ONEDNN: "0"}) == "False"
    assert of_process(QUICKSTART, "--from_scratch") == "1"
    assert of_process(QUICKSTART, "--from_scratch", **{ONEDNN: "0"}) == "0"
    assert of_process(QUICKSTART) == "None"


def test_an_error_after_tensorflow_is_one_line(tmp_path):
    (tmp_path / "text.keras").write_text("not a model")
    process = subprocess.run(
        [
            *(sys.executable, "-m", "sepssl.cli.export"),
            *("--encoder=text.keras", "--output=out"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        timeout=240,
    )
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("sepssl-export: error: text.keras: ")


def test_the_home_folder_in_flags(tmp_path):
    """bash hands `--flag=~/x` on as it is, also of a configuration, which reads sys.argv itself."""
    home = ENVIRONMENT | {"HOME": str(tmp_path)}
    train = ("train", f"--config={ROOT}/configs/separator_smoke.py", "--workdir=~/out")
    for arguments, names in (
        (("search", "--index=~/none", "--query=~"), "none"),
        ((*train, "--config.train.init_from=~/none.keras"), "none.keras"),
    ):
        command = [sys.executable, "-m", f"sepssl.cli.{arguments[0]}", *arguments[1:]]
        options = {"capture_output": True, "text": True, "timeout": 240}
        process = subprocess.run(command, cwd=tmp_path, env=home, **options)
        assert f": error: {tmp_path}/{names}" in process.stderr


def wait_until(process, condition):
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    pytest.fail("nothing came of it in two minutes")


FAILS_LIKE_TENSORFLOW = """
import atexit, os, sys
from sepssl.cli import train
from sepssl.errors import InputError

def main(values):
    atexit.register(os.abort)
    raise InputError("a step does not fit into memory")

train.main = main
sys.argv = ["sepssl-train", "--config=separator_smoke", "--workdir=run"]
train.run()
"""


def test_what_breaks_in_the_end_does_not_change_how_a_training_failed(tmp_path):
    """As TensorFlow's memory, after some was not to be had."""
    process = subprocess.run(
        [sys.executable, "-c", FAILS_LIKE_TENSORFLOW],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.stderr == "sepssl-train: error: a step does not fit into memory\n"
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_while_tensorflow_is_imported(tmp_path):
    # A file that waits to be written: the process does not end before the signal comes, however
    # late that is.
    os.mkfifo(tmp_path / "pipe.keras")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sepssl.cli.export"),
            *("--encoder=pipe.keras", "--output=out"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        # Where the tests run in the background of a shell, SIGINT is ignored, and would stay so.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    wait_until(process, lambda: "tensorflow" in maps.read_text())
    os.killpg(process.pid, signal.SIGINT)  # to all of the foreground, as a terminal does
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr == "sepssl-export: stopped; nothing was written\n"


def test_sigterm_has_a_training_saved_and_ends_it_in_one_line(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sepssl.cli.train"),
            *(f"--config={ROOT}/configs/separator_smoke.py", "--workdir=run"),
            *("--config.train.steps=100000", "--config.train.checkpoint_every=100000"),
            "--config.train.log_every=2",
            *("--config.data.num_clips=8", "--config.data.clip_seconds=0.5"),
            *("--config.train.crop_seconds=0.3", "--config.separator.unroll=False"),
            *("--config.separator.bottleneck_channels=4", "--config.separator.conv_channels=6"),
            *("--config.data.num_validation=0", "--config.train.state_steps=(100000,)"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    checkpoints = tmp_path / "run" / "checkpoints"
    log = tmp_path / "run" / "metrics.jsonl"
    wait_until(process, lambda: log.exists() and len(log.read_text().splitlines()) > 2)
    process.terminate()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr  # all is saved
    assert "compiling the first step" in stdout
    assert "\r" not in stdout
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    (checkpoint,) = checkpoints.glob("ckpt-*.index")
    saved = int(checkpoint.stem.removeprefix("ckpt-"))
    assert saved >= 6
    assert lines[0] == (
        f"sepssl-train: stopped by SIGTERM; the last checkpoint is that of step {saved}; "
        "repeat the command to continue"
    )


@pytest.mark.parametrize("lines", [1, 100_000])  # less and more than Python's buffer
def test_a_reader_that_goes_away(lines):
    script = f"""
import sys
TENSORFLOW = False
__file__ = "command.py"
def define_flags(values): pass
def check(values): input()
def main(values): print("a line\\n" * {lines})
from sepssl.cli.main import run
run(sys.modules[__name__])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    _, stderr = process.communicate(b"\n")
    assert (process.returncode, stderr) == (141, b"")
