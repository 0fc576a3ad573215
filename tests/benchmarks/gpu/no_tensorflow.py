"""Lets this package be imported where there is JAX, but no TensorFlow."""

import importlib.abc
import importlib.machinery
import os
import sys
import types

import configs


class Empty(types.ModuleType):
    """Stands for TensorFlow, which the package's training loop and exports import."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Empty(f"{self.__name__}.{name}")

    def __call__(self, *arguments, **_):
        return arguments[0] if arguments and callable(arguments[0]) else (lambda f: f)

    def __or__(self, other):
        return self

    __ror__ = __or__


class EmptyTensorFlow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module):
        module.__path__ = []


def use_jax():
    """Before Keras and this package, which need not be installed, are imported."""
    sys.modules["sepssl.configs"] = configs
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    sys.meta_path.insert(0, EmptyTensorFlow())
