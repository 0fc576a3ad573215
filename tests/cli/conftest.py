import dataclasses
import importlib
import sys

import pytest
from absl import flags

from sepssl.cli.main import execute, parse


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
