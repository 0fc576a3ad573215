"""The blocks of code on README and the pages below docs, and how the tests run them."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# In use, the folder of the page for browsers holds other packages and models.
TEXTS = [path for path in DOCS.rglob("*.md") if DOCS / "browser" not in path.parents]
PAGES = [ROOT / "README.md", *sorted(TEXTS)]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*?) -->\n)?"
    r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```\n"
    r"(?:^<!-- check:(?P<check>.*?)-->)?",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: "sh", "python" or another.
        code: between the fences.
        reason: why it is not run, from a comment `<!-- not run: ... -->` above it; "" if it is.
        check: code that must hold after it, from a comment `<!-- check: ... -->` below it.
        line: of the opening fence, from 1.
    """

    language: str
    code: str
    reason: str
    check: str
    line: int


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return [
        Block(
            match["language"],
            match["code"],
            match["reason"] or "",
            (match["check"] or "").strip(),
            text.count("\n", 0, match.start("language")) + 1,
        )
        for match in _BLOCK.finditer(text)
    ]


def commands(code: str) -> list[str]:
    """The command lines of a shell block, without comments and continuation lines."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and line[0] != "#"]
