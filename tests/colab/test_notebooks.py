import pathlib

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs the extra `test`")
nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "colab").glob("*.ipynb"))
# Its trainings, made small.
SMALL = {
    "steps=60, state_steps=(0, 20, 60), log_every=20)": """steps=2, state_steps=(0, 2), log_every=1)
config.train.update(batch_size=4, crop_seconds=1.0)
config.data.update(num_clips=8, num_validation=2)
config.separator.update(bottleneck_channels=8, conv_channels=12, dilations_per_repeat=1)
config.separator.update(unroll=False)
""",
    "encoder_smoke.get_config()": """encoder_smoke.get_config()
config.train.update(steps=2, state_steps=(2,), log_every=1, batch_size=4, probe_clips=8)
config.data.update(num_clips=8)
config.encoder.update(embedding_size=16, width=4)
""",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    for code, smaller in SMALL.items():
        (cell,) = (cell for cell in notebook.cells if code in cell.source)
        cell.source = cell.source.replace(code, smaller)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=250, resources=resources).execute()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    for line in text.splitlines():
        if line.startswith("largest difference"):
            assert float(line.split(":")[1]) < 1e-5, line
    assert text.count("largest difference") == 2
