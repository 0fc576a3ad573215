import pathlib

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs the extra `test`")
nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "colab").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=250, resources=resources).execute()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    for line in text.splitlines():
        if line.startswith("largest difference"):
            assert float(line.split(":")[1]) < 1e-5, line
    assert text.count("largest difference") == 2
