"""Type hints: every public function and method says what it takes and what it returns."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("sepssl", "export", "configs")
KERAS = {  # whose signatures are Keras's, which has no hints for them
    "build",
    "call",
    "compute_mask",
    "compute_output_shape",
    "from_config",
    "get_config",
    "test_step",
    "train_step",
}


def needs_hints(function: ast.FunctionDef) -> bool:
    public = function.name == "__init__" or not function.name.startswith("_")
    return public and function.name not in KERAS


def lacks_hints(function: ast.FunctionDef) -> bool:
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    if any(p.annotation is None and p.arg not in ("self", "cls") for p in parameters):
        return True
    return function.returns is None and function.name != "__init__"


def without_hints(source: str) -> list[str]:
    """Names of the public functions, and methods of public classes, that lack hints."""
    found = []

    def visit(node: ast.Module | ast.ClassDef, prefix: str) -> None:
        for child in node.body:
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef) and needs_hints(child) and lacks_hints(child):
                found.append(prefix + child.name)

    visit(ast.parse(source), "")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_functions_have_hints(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    lacking = {
        str(path.relative_to(ROOT)): names
        for path in files
        if (names := without_hints(path.read_text()))
    }
    assert not lacking


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x): pass", ["f"]),
        ("def f(x: int): pass", ["f"]),
        ("def f(*, x) -> int: pass", ["f"]),
        ("def f(x: int) -> int: pass", []),
        ("def _f(x): pass", []),
        ("class A:\n    def __init__(self, x): pass", ["A.__init__"]),
        ("class A:\n    def __init__(self, x: int, **kwargs): pass", []),
        ("class A:\n    @property\n    def f(self): pass", ["A.f"]),
        ("class A:\n    def call(self, x): pass", []),
        ("class _A:\n    def f(self, x): pass", []),
    ],
)
def test_the_check_finds_what_lacks_hints(source, expected):
    assert without_hints(source) == expected
