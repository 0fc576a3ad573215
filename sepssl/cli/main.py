"""How every command is run: flags, errors of one line, signals, a quiet TensorFlow.

A command is a module with a docstring, which `--help` shows, and three functions:

    def define_flags(values): flags.DEFINE_string("name", ..., flag_values=values)
    def check(values): raises InputError for what flags and the file system alone show
    def main(values): does the work; returns an exit status, or None for 0

`check` is called before TensorFlow is imported, which takes seconds, so that a mistake is answered
at once; `main` imports what it needs, and TensorFlow too if the module says `TENSORFLOW = False`.
Neither looks at anything but `values`, so that commands can be called one after the other in a
process. A command may have a function `expanded(argv)`, which returns what its arguments are short
for. A command of several `TASKS` takes the name of one as its first argument, for its flag
`task`. One that says `RESUMES = True` saves its work when it is stopped: SIGTERM, as schedulers
send it, then ends it with status 0.
"""

import contextlib
import importlib
import io
import os
import pathlib
import platform
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType

from absl import app, flags, logging

from sepssl.errors import InputError

# What TensorFlow 2.17 to 2.21 print all the same on import, on machines where nothing is wrong.
# cuInit's 303 says that there is no CUDA driver; any other number is worth reading.
_NOISE = re.compile(
    rb"^I0000 |^WARNING: All log messages before absl::InitializeLog"
    rb"|^[-\d]+ [:.\d]+: I |^To enable the following instructions"
    rb"|Unable to register cu\w+ factory|cuInit: .*\(303\)"
)
_MISSING = re.compile(r"flag --(\w+)=None: .* must have a value other than None")
# Shells expand ~ at the beginning of a word alone.
_HOME = re.compile(r"(--?[\w.]+=)(~(?:/.*)?)", re.DOTALL)
_HELP = re.compile(r"--?(help|helpshort|\?)(=(true|t|1|yes|y))?", re.IGNORECASE)


def run(command: ModuleType) -> None:
    """A whole console script: parses the command line, runs the command, exits.

    The exit status is 0, or what `main` returns. A wrong flag, a left-over argument or an
    `InputError` is one line on stderr, `PROGRAM: error: ...`, and exit status 1; with
    `--verbosity=1` the traceback precedes it. Ctrl-C, SIGTERM and SIGHUP raise in the main thread,
    so that `finally` blocks run, and end in one line and the exit status of the signal: 130, 143,
    129. (After SIGTERM 0, where a command `RESUMES` and no error came in between.) Where the reader
    of stdout has gone, as with `| head`, the exit status is 141, without a word. Any other
    exception is a fault of the program, and keeps its traceback.
    """
    received = []
    sys.argv[1:] = map(with_home, sys.argv[1:])  # where ml_collections looks for --config.KEY
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may not be UTF-8

    def stop(number, _):
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        # Not where the parent wants them ignored, as nohup does.
        if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)
    try:
        app.run(
            lambda _: _ended(command, execute(command, flags.FLAGS)),
            flags_parser=lambda argv: parse(command, flags.FLAGS, argv),
        )
    except BrokenPipeError:
        try:
            os.write(sys.stdout.fileno(), b"\n")  # was it this pipe?
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again
            sys.exit(141)
        raise
    # Whatever the signal's exception became on its way: an interrupted import may fail otherwise.
    except BaseException as error:
        if not received:
            raise
        status = 128 + received[0]
        saved = isinstance(error, SystemExit) and error.code == status  # as `stop` raised it
        if saved and received[0] == signal.SIGTERM and getattr(command, "RESUMES", False):
            status = 0
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C while Python ends
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            line = f"{_program(command)}: {_stopped(command, received[0])}"
            # A terminal has echoed ^C before it.
            print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
        if getattr(command, "RESUMES", False):  # in a group, TensorFlow's end may take a minute
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)
        sys.exit(status)


def _ended(command: ModuleType, status: int) -> int:
    sys.stdout.flush()
    if status and getattr(command, "RESUMES", False):
        # TensorFlow's end may abort where a step did not fit into memory.
        sys.stderr.flush()
        os._exit(status)
    return status


def with_home(argument: str) -> str:
    """A flag of the command line whose value is `~` or begins with `~/`: with the home folder."""
    found = _HOME.fullmatch(argument)
    return found[1] + os.path.expanduser(found[2]) if found else argument


def parse(command: ModuleType, values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Defines the command's flags in `values` and parses `argv`, the program's name first.

    Returns:
        The program's name alone.

    Raises:
        SystemExit: with status 1 if a flag is wrong, which is printed; with 0 after `--help`.
    """
    try:
        command.define_flags(values)
        if len(argv) > 1 and argv[1] in getattr(command, "TASKS", ()):
            argv = [argv[0], f"--task={argv[1]}", *argv[2:]]
        argv = command.expanded(argv) if hasattr(command, "expanded") else argv
    except (flags.Error, UnicodeDecodeError) as error:  # a --flagfile that is not there, or no text
        sys.exit(_fail(command, error))
    if any(_HELP.fullmatch(argument) for argument in argv[1:]):
        print(_help(command, values, argv))
        sys.exit(0)
    try:
        rest = values(argv)
    except flags.Error as error:
        reason = str(error)
        if (missing := _MISSING.match(reason)) and missing[1] == "task":
            reason = f"expected a task as the first argument: {', '.join(command.TASKS)}"
        elif missing:
            reason = f"--{missing[1]} is required"
        elif "already defined as" in reason:
            reason += "; expected it once"
        elif "before a value for" in reason:
            reason += "; expected --config before --config.KEY"
        sys.exit(_fail(command, reason))
    except SystemExit:  # other flags that ask for help, for which absl exits with 1
        sys.exit(0)
    except Exception as error:  # A configuration is Python code and may raise anything.
        from sepssl.cli.config_keys import explain

        sys.exit(_fail(command, explain(argv, error)))
    if len(rest) > 1:
        unexpected = f"unexpected argument {rest[1]!r}; expected flags only: --name=value"
        sys.exit(_fail(command, unexpected))
    return rest


def execute(command: ModuleType, values: flags.FlagValues) -> int:
    """Runs a command whose flags are parsed; returns the exit status."""
    if "verbosity" not in values or not values["verbosity"].present:
        # absl's INFO has TensorFlow log each step of writing a checkpoint or SavedModel.
        logging.set_verbosity(logging.WARNING)
    try:
        command.check(values)
        if getattr(command, "TENSORFLOW", True):
            import_quietly("tensorflow")
        return command.main(values) or 0
    except InputError as error:
        if "verbosity" in values and values.verbosity > 0:
            traceback.print_exc()
        return _fail(command, error)


def import_quietly(module: str) -> None:
    """Imports a module that brings TensorFlow in, and keeps what TensorFlow logs about it back."""
    # Read by TensorFlow when it is imported: no information, no warnings from its C++ side.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules:
        importlib.import_module(module)
        return
    with _filtered_stderr(), _signals_held():
        importlib.import_module(module)
        sys.modules["tensorflow"].config.list_physical_devices()


def prefer_onednn() -> None:
    """Has TensorFlow train by oneDNN's convolutions on x86, unless the environment says otherwise.

    By itself it does so on CPUs with AVX-512 VNNI or more only, but with AVX2, too, steps of
    encoders take a third to four fifths of the time. Single patches are slower, so this is not for
    inference. Read by TensorFlow when it is imported.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Lets signals wait for the few seconds of an import.

    An exception in the midst of TensorFlow's C++ modules can abort the process (Python 3.13).
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Drops noise from what the process writes to stderr.

    A child process filters, so that the last words of an import that crashes are not lost.
    """
    if not hasattr(os, "fork"):  # Windows
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writable)
        _pass_on(readable)
    os.close(readable)
    stderr = os.dup(2)
    os.dup2(writable, 2)
    os.close(writable)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.waitpid(child, 0)


def _pass_on(readable: int) -> None:
    """Writes the lines that are not noise to stderr until the other end closes; ends the process.

    Signals to the group of processes are the parent's business; it closes its end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(readable, "rb") as lines:
        for line in lines:
            if not _NOISE.search(line):
                os.write(2, line)
    os._exit(0)


def _program(command: ModuleType) -> str:
    # `python -m sepssl.cli.export` is sepssl-export as well.
    return f"sepssl-{pathlib.Path(str(command.__file__)).stem.replace('_', '-')}"


def _fail(command: ModuleType, error: Exception | str) -> int:
    print(f"{_program(command)}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _stopped(command: ModuleType, number: int) -> str:
    cause = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    left = "nothing was written"
    if hasattr(command, "stopped") and flags.FLAGS.is_parsed():
        left = command.stopped(flags.FLAGS)
    return f"stopped{cause}; {left}"


def _help(command: ModuleType, values: flags.FlagValues, argv: Sequence[str]) -> str:
    name = sys.argv[0] if command.__name__ == "__main__" else command.__name__  # as absl has it
    for module, defined in values.flags_by_module_dict().items():
        if module.startswith("sepssl.cli.") and module != name:  # flags of several commands
            for flag in defined:
                values.register_key_flag_for_module(name, flag)
    text = values.module_help(command).strip().partition("\n")[2]
    parts = [(command.__doc__ or "").strip(), "Flags:", text.replace("\n    (default: 'None')", "")]
    if "config" in values:
        from sepssl.cli.config_keys import describe

        parts.append(describe(argv))
    parts.append(
        "--flagfile=FILE reads flags from a file, --verbosity=1 shows tracebacks, --helpfull lists "
        "all flags."
    )
    return "\n\n".join(parts)
