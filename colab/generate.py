"""Writes the notebooks from their sources, which are in jupytext's percent format.

python colab/generate.py

Each notebook begins with its source's title, then a badge, and the installation. The cells of a
source follow each other as they stand; a notebook without outputs is what is committed.
"""

import pathlib

import jupytext
import nbformat

# Such as "https://github.com/OWNER/NAME". README and docs/notebooks.md name it as well, and the
# tests say where that differs.
REPOSITORY = "URL_OF_THIS_REPOSITORY"

FOLDER = pathlib.Path(__file__).parent
SOURCES = sorted((FOLDER / "sources").glob("*.py"))

# The requirements of sepssl admit the TensorFlow of Colab's runtime, so pip leaves that as it is.
INSTALL = """\
import os

# What TensorFlow writes about the machine, past Python, is not shown; errors are.
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
try:
    import sepssl
except ImportError:
    %pip install -q git+{repository}"""


def colab_link(name: str) -> str:
    """Where Colab opens a notebook."""
    path = REPOSITORY.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/main/colab/{name}.ipynb"


def badge(name: str) -> str:
    """A link to Colab, in Markdown."""
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({image})]({colab_link(name)})"


def notebook(source: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook that a source gives."""
    made = nbformat.v4.new_notebook()
    title, *cells = jupytext.read(source, fmt="py:percent").cells
    install = nbformat.v4.new_code_cell(INSTALL.format(repository=REPOSITORY))
    title.source += f"\n\n{badge(source.stem)}"
    made.cells = [title, install, *cells]
    for number, cell in enumerate(made.cells):
        cell.id = f"cell{number}"  # nbformat's own is drawn at random
    made.metadata = {
        "accelerator": "GPU",
        "colab": {"name": f"sepssl: {source.stem}"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(made)
    return made


def main() -> None:
    for source in SOURCES:
        nbformat.write(notebook(source), FOLDER / f"{source.stem}.ipynb")


if __name__ == "__main__":
    main()
