"""Imports run one way: down the table of rooms in CONTRIBUTING.md, and never in a circle."""

import ast
import functools
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def rooms() -> list[str]:
    """The rooms of the table in its reading order, as names of packages and modules."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    names = []
    for path in re.findall("`(.*?)`", " ".join(rows)):
        folder, braces, rest = path.partition("{")
        several = rest.partition("}")[0].split(",") if braces else [""]
        names += [module_name(pathlib.Path(folder + name)) for name in several]
    return names


def module_name(path: pathlib.Path) -> str:
    """The name under which a file or folder, relative to the repository, is imported."""
    parts = [*path.parts[:-1], path.name.removesuffix(".py")]
    # setup.py installs the folders beside `sepssl` into it.
    parts = parts if parts[0] == "sepssl" else ["sepssl", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports() -> dict[str, set[str]]:
    """Of every module of the package, the modules of the package that it imports, at any place."""
    folders = ("sepssl", "configs", "export")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names = {module_name(path.relative_to(ROOT)): path for path in files}
    return {name: imported(path.read_text(), set(names)) for name, path in names.items()}


def imported(text: str, modules: set[str]) -> set[str]:
    """What a source text imports of `modules`, but not only for a type checker."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "expected no relative imports"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else str(node.module))
    return found & modules


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_module_lies_in_a_room_of_the_table():
    assert {room_of(module) for module in imports()} == set(rooms())


@pytest.mark.parametrize("room", rooms())
def test_imports_go_down_the_table(room):
    order = rooms()
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room_of(module) == room and order.index(room_of(other)) < order.index(room)
    ]
    assert not upward


def test_imports_run_in_no_circle():
    graphlib.TopologicalSorter(imports()).prepare()


def test_imports_are_found_wherever_they_stand():
    modules = {"sepssl", "sepssl.files", "sepssl.data", "sepssl.data.clips", "sepssl.typing"}
    text = """
import numpy, sepssl.files
from sepssl.data import clips
from sepssl import InputError
if TYPE_CHECKING:
    from sepssl.typing import Tensor
def late():
    from sepssl.data import open_clips
"""
    expected = {"sepssl.files", "sepssl.data.clips", "sepssl", "sepssl.data"}
    assert imported(text, modules) == expected
