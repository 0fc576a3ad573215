"""Registers this package's classes with Keras; `import sepssl` sees to it.

Keras finds a class that a `.keras` file names only if the module defining it has been imported.
Those modules import Keras and TensorFlow, which takes seconds, and `import sepssl` must not. So
they are imported together with Keras: at once where Keras already is, else right after it.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Every module that defines a class registered under the package "sepssl".
MODULES = (
    "sepssl.audio.log_mel",
    "sepssl.audio.panns_log_mel",
    "sepssl.representation",
    "sepssl.separation",
    "sepssl.training.loop",
    "sepssl.training.separator_learner",
    "sepssl.training.similarity_learner",
    "sepssl.training.supervised_learner",
    "sepssl.views",
)


def register() -> None:
    """Imports all modules that define a Keras class."""
    for name in MODULES:
        importlib.import_module(name)


def register_with_keras() -> None:
    """Calls `register` now if Keras is imported, or else as soon as it is."""
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Calls `register` once, when the import that brings Keras in is complete.

    That import need not be `import keras`: TensorFlow imports Keras before its own end, and so do
    the modules of this package, which could not be imported a second time from within. So all of
    them are watched, and the outermost one counts.
    """

    def __init__(self):
        self._running: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in ("keras", "tensorflow") and not fullname.startswith("sepssl."):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: importlib.machinery.ModuleSpec) -> None:
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self._running.add(spec.name)
            try:
                execute(module)
            finally:
                self._running.discard(spec.name)
            if "keras" in sys.modules and not self._running and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        loader.exec_module = exec_module
