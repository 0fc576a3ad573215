"""What `--help` and errors tell about the keys of a configuration file."""

import ast
import difflib
import pathlib
import runpy
import tokenize
import types
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

import sepssl.configs

_OF_QUICKSTART = ("quickstart", "from_scratch")


def shipped() -> dict[str, pathlib.Path]:
    """The files of the configurations that come with the package, by name: those to train by."""
    folder = pathlib.Path(sepssl.configs.__path__[0])
    files = {file.stem: file for file in sorted(folder.glob("[!_]*.py"))}
    return {name: file for name, file in files.items() if name not in _OF_QUICKSTART}


def missing(path: str) -> str:
    """What to say of a configuration that is not there."""
    names = ", ".join(shipped())
    return f"{path}: no such file; expected a configuration in Python, or one of {names}"


def describe(argv: Sequence[str]) -> str:
    """The keys of the configuration that a command line names, with values and comments.

    Without a configuration, or with one that cannot be read: how to see them.
    """
    path = _named(argv)
    if not path:
        return (
            "Every value of a configuration is set by --config.KEY=VALUE. To list the keys of one, "
            "add it:\n  --config=FILE --help"
        )
    try:
        config, sources = _load(path)
    except Exception as error:  # a configuration is Python code and may raise anything
        return explain(argv, error)
    comments: dict[str, str] = {}
    for found in map(_comments, sources):
        # A key that means one thing here and another there is left without.
        comments |= {k: v if comments.get(k, v) == v else "" for k, v in found.items()}
    lines = [f"Keys of {path}, with their values there, set by --config.KEY=VALUE:"]
    for key, value in _flat(config).items():
        line = f"  {key}={_shown(value)}"
        comment = _comment_for(key, comments)
        lines.append(f"{line:<48}  # {comment}" if comment else line)
    return "\n".join(lines)


def explain(argv: Sequence[str], error: Exception) -> str:
    """Why a command line's configuration could not be read, or its values not be set."""
    path = _named(argv)
    if not pathlib.Path(path.partition(":")[0]).is_file():
        return missing(path)
    try:
        config, _ = _load(path)
    except Exception as failure:
        reason = str(failure) or type(failure).__name__
        return f"{path}: could not be read as a configuration ({type(failure).__name__}: {reason})"
    leaves = _flat(config)
    known = {*leaves, *(key.rpartition(".")[0] for key in leaves)}
    for argument in _arguments(argv):
        flag, dot, key = argument.partition("=")[0].lstrip("-").partition(".")
        if flag in ("config", "noconfig") and dot and key not in known:
            near = difflib.get_close_matches(key, leaves, n=3) or [
                leaf for leaf in leaves if leaf.rpartition(".")[2] == key.rpartition(".")[2]
            ]
            hint = f"did you mean {' or '.join(near[:3])}?" if near else "--help lists the keys"
            return f"unknown configuration key: {key}; {hint}"
    return f"{path}: {error}"


def _arguments(argv: Sequence[str]) -> list[str]:
    return flags.FLAGS.read_flags_from_files(list(argv[1:]), force_gnu=False)


def _named(argv: Sequence[str]) -> str:
    arguments = _arguments(argv)
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else "".join(arguments[i + 1 : i + 2])
    return ""


def _load(path: str) -> tuple[ConfigDict, list[pathlib.Path]]:
    """The configuration, and the files it is made of: itself and configurations it imports."""
    file, colon, argument = path.partition(":")
    content = runpy.run_path(file)
    sources, modules = [pathlib.Path(file)], [content]
    while modules:
        for module in modules.pop().values():
            if isinstance(module, types.ModuleType) and hasattr(module, "get_config"):
                source = pathlib.Path(str(module.__file__))
                if source not in sources:
                    sources.append(source)
                    modules.append(vars(module))
    return content["get_config"](*([argument] if colon else [])), sources


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        nested = isinstance(value, ConfigDict) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _comments(source: pathlib.Path) -> dict[str, str]:
    """The keys in a file's literal dicts, each with the comment behind its value or above it."""
    with open(source, "rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    lines = source.read_text().splitlines()
    found = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    above = {n for n in found if lines[n - 1].lstrip().startswith("#")}
    comments: dict[str, str] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        if not isinstance(node, ast.Dict):
            for child in ast.iter_child_nodes(node):
                walk(child, prefix)
            return
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant):
                continue
            path = prefix + str(key.value)
            if isinstance(value, ast.Dict):
                walk(value, f"{path}.")
            elif value.end_lineno in found:
                comments[path] = found[value.end_lineno]
            else:
                block: list[str] = []
                line = key.lineno - 1
                while line in above:
                    block.insert(0, found[line])
                    line -= 1
                comments[path] = " ".join(block)

    walk(ast.parse(source.read_text()), "")
    return comments


def _comment_for(key: str, comments: dict[str, str]) -> str:
    """That of the key, or, where a configuration holds others, of the key within those."""
    while key not in comments and "." in key:
        key = key.partition(".")[2]
    return comments.get(key, "")
