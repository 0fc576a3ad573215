"""Marks what depends on the versions of TensorFlow and Keras, which `-m versions` selects.

The conformance tests are chief among it: they build, save, load, fit, export and resume every
layer, model and learner. What they do not meet stands beside them: loading that distrusts the file,
checkpoints, the input in TensorFlow's graph, tensorflow-io's decoders, TFDS. Files of either
versions are read by the other in .ci/exchange.py.
"""

import dataclasses
import functools
import gc
import importlib
import pathlib
import sys

import pytest
from absl import flags

from sepssl.cli.main import execute, parse
from tests.forks import ForkServer

TESTS = pathlib.Path(__file__).parent
VERSIONS = (
    "audio/test_in_graph.py",
    "audio/test_log_mel.py",
    "conformance",
    "data/test_tfds_clips.py",
    "test_package.py",
    "test_serialization.py",
    "training/test_checkpoints.py",
)
# Files that take a minute or more come first: in the end, neither process waits for the other.
LONG = (
    "pipelines/test_from_scratch.py",
    "docs/test_pages.py",
    "conformance/test_replicas.py",
    "training/test_loop.py",
    "colab",
    "training/test_encoder_training.py",
    "export",
    "training/test_start.py",
)


def pytest_collection_finish():
    gc.freeze()  # 400,000 objects of imports need not be looked through again and again


def pytest_collection_modifyitems(items):
    for item in items:
        if _is_in(VERSIONS, item):
            item.add_marker(pytest.mark.versions)
    items.sort(key=lambda item: not _is_in(LONG, item))


def _is_in(parts, item):
    path = item.path.relative_to(TESTS).as_posix()
    return any(path == part or path.startswith(f"{part}/") for part in parts)


@pytest.fixture
def eager(request):
    """Functions run operation by operation: graphs take seconds to trace, and XLA to compile.

    For tests of what surrounds a network or a step, whose graphs others run: of both stages of
    training tests/pipelines/test_from_scratch.py. Slow tests keep theirs. The picture of the views
    that an encoder's training leaves takes a second, too: it shows one pair.
    """
    if request.node.get_closest_marker("slow") is not None:
        yield
        return
    import tensorflow as tf

    from sepssl.training import encoder

    one_pair = functools.partial(encoder.draw_views, count=1)
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "draw_views", one_pair)
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def forks():
    """Runs Python scripts in processes of their own, which have imported TensorFlow already."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def forked_exports(forks):
    """The exporter's scripts start in a fork."""
    from sepssl.export import processes, tflite

    def run_script(script, *arguments, timeout=None):
        return forks.run(script, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        for module in (processes, tflite):
            patch.setattr(module, "run_script", run_script)
        yield


@dataclasses.dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process, as the console script does in its own."""

    def call(name: str, *arguments) -> Result:
        command = importlib.import_module(f"sepssl.cli.{name}")
        argv = [f"sepssl-{name}", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for --config.KEY
        values = flags.FlagValues()
        capsys.readouterr()
        try:
            parse(command, values, argv)
            status = execute(command, values)
        except SystemExit as stop:
            status = stop.code
        return Result(status, *capsys.readouterr())

    return call
