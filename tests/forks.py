"""Python scripts in processes forked from one that has imported TensorFlow.

A start of TensorFlow takes 6 s, such a fork none. It shares nothing with the tests' own process,
and neither does it know of sepssl.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

# Reads a job from every line of its input and answers with the exit status.
_SERVER = """
import json, os, runpy, signal, sys, traceback
import keras, numpy, tensorflow

def run(job):
    os.chdir(job["cwd"])
    sys.path[:0] = job["path"]
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY), number)
    sys.argv = job["argv"]
    try:
        if "code" in job:
            exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(job["argv"][0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    child = os.fork()
    if not child:
        status = run(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    signal.alarm(280)  # as a test's limit: a hanging script ends with the server
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    signal.alarm(0)
"""


class ForkServer:
    """The process that is forked; started at its first use, ended by `close`."""

    def __init__(self):
        self._process = None

    def run(
        self,
        *argv: str | os.PathLike,
        code: str | None = None,
        cwd: str | os.PathLike = ".",
        path: Sequence[str | os.PathLike] = (),
    ) -> subprocess.CompletedProcess:
        """Runs a script, or `code` with the arguments `argv`; its output as text.

        Args:
            argv: the script and its arguments; of `code`, the arguments.
            code: Python code.
            cwd: the working directory.
            path: folders to import from, as in PYTHONPATH.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
            )
        with tempfile.TemporaryDirectory() as folder:
            files = {name: os.path.join(folder, name) for name in ("stdout", "stderr")}
            for file in files.values():
                pathlib.Path(file).touch()
            arguments = list(map(os.fspath, argv))
            job = {"argv": ["-c", *arguments] if code else arguments, "cwd": os.path.abspath(cwd)}
            job["path"] = [os.path.abspath(folder) for folder in path]
            job |= files | ({"code": code} if code else {})
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            outputs = {name: pathlib.Path(file).read_text() for name, file in files.items()}
        return subprocess.CompletedProcess(argv, status, **outputs)

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
