"""Marks what depends on the versions of TensorFlow and Keras, which `-m versions` selects.

The rest is NumPy, SciPy and files: it is tested with the newest versions only.
"""

import pathlib

import pytest

from tests.forks import ForkServer

TESTS = pathlib.Path(__file__).parent
VERSIONS = (
    "audio/test_in_graph.py",
    "audio/test_log_mel.py",
    "audio/test_panns_log_mel.py",
    "conformance",
    "data/test_tfds_clips.py",
    "export",
    "representation",
    "separation",
    "test_package.py",
    "test_serialization.py",
    "training",
    "views",
)


def pytest_collection_modifyitems(items):
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if any(path == part or path.startswith(f"{part}/") for part in VERSIONS):
            item.add_marker(pytest.mark.versions)


@pytest.fixture(scope="session")
def forks():
    """Runs Python scripts in processes of their own, which have imported TensorFlow already."""
    server = ForkServer()
    yield server
    server.close()
