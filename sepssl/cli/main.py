"""How every entry point is run: flags, one-line errors, a quiet TensorFlow.

from sepssl.cli.main import run_main   # before anything that imports TensorFlow

FLAGS = flags.FLAGS
flags.DEFINE_string(...)

def main(argv): ...

def run():
    run_main(main)

if __name__ == "__main__":
    run()
"""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable

from absl import app, flags, logging

from sepssl.errors import InputError

# Read by TensorFlow when it is imported: no information, no warnings from its C++ side.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# What TensorFlow 2.17 and 2.21 print all the same on import, on machines where nothing is wrong.
# cuInit's 303 says that there is no CUDA driver; any other number is worth reading.
_NOISE = re.compile(
    rb"^I0000 |^WARNING: All log messages before absl::InitializeLog"
    rb"|^[-\d]+ [:.\d]+: I |^To enable the following instructions"
    rb"|Unable to register cu\w+ factory|cuInit: .*\(303\)"
)


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, calls `main`, exits: the whole of a console script.

    Exit status 0, or what `main` returns. A wrong flag, a left-over argument or an `InputError`
    is one line on stderr, `PROGRAM: error: ...`, and exit status 1. `--help` shows the docstring
    of `main`'s module and its flags, and exits with 0.
    """

    def guarded(argv):
        if len(argv) > 1:
            return _fail(f"unexpected argument {argv[1]!r}; expected flags only: --name=value")
        _import_tensorflow()
        if not flags.FLAGS["verbosity"].present:
            # absl's INFO has TensorFlow log each step of writing a checkpoint or SavedModel.
            logging.set_verbosity(logging.WARNING)
        try:
            return main(argv)
        except (InputError, ImportError) as error:  # the latter names the extra to install
            return _fail(error)
        except KeyboardInterrupt:
            _fail("stopped; what was written stays, and a training run continues when repeated")
            return 130

    _describe(main)
    app.run(guarded, flags_parser=_parse)


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_fail(error))
    except (AttributeError, KeyError) as error:  # ml_collections, for --config.TYPO=1.
        text = str(error.args[0]).strip("\"'").replace("\\n", " ").replace("\\'", "'")
        sys.exit(_fail(f"a flag sets what the configuration does not have: {text}"))
    except (OSError, SyntaxError, ImportError, NameError, TypeError, ValueError) as error:
        sys.exit(_fail(f"the configuration could not be read: {error}"))
    except SystemExit:  # --help, for which absl exits with 1.
        sys.exit(0)


def _fail(error) -> int:
    path = pathlib.Path(sys.argv[0])
    # `python -m sepssl.cli.export` is sepssl-export as well.
    program = f"sepssl-{path.stem.replace('_', '-')}" if path.suffix == ".py" else path.name
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _describe(main):
    # absl takes the help from the module that is run. A console script is a module of its own,
    # without a docstring or flags.
    if main.__module__ != "__main__":
        sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
        for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _import_tensorflow():
    with _filtered_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _filtered_stderr():
    """Holds back what is written to the process's stderr, then passes on what is no noise."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not _NOISE.search(line):
                    os.write(2, line)
