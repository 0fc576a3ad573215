"""The notebooks: are what their sources give, and run from top to bottom on small settings."""

import ast
import collections
import html
import importlib.util
import pathlib
import re
import sys
import types
import zipfile

import keras
import numpy as np
import pytest

from sepssl.data.annotations import read_annotations
from sepssl.data.scenes import SceneConfig, make_scene
from sepssl.errors import InputError
from sepssl.index.rows import read_rows
from sepssl.pipelines.colab import chosen_recordings
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import save_model

nbclient = pytest.importorskip("nbclient", reason="needs the extra `test`")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")

ROOT = pathlib.Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("generate", ROOT / "colab" / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
NAMES = [source.stem for source in generate.SOURCES]


def committed(name):
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def test_notebooks_are_what_their_sources_give():
    assert sorted(path.stem for path in (ROOT / "colab").glob("*.ipynb")) == NAMES
    for source in generate.SOURCES:
        given = committed(source.stem) == generate.notebook(source)
        assert given, f"{source.stem}: expected what `python colab/generate.py` writes"


def test_pages_link_to_the_notebooks_in_colab():
    page = (ROOT / "docs" / "notebooks.md").read_text()
    for name in NAMES:
        assert generate.badge(name) in page, name
    assert generate.badge("quickstart") in (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models, by kind."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    made = {
        "separator": Separator(3, STFTBasis(64, 32), TDCN(4, 6, 2, 1), "uniform"),
        "encoder": Encoder(SmallBackbone(8, width=2)),
    }
    for kind, model in made.items():
        model.build()
        save_model(model, folder / f"{kind}.keras")
    return {kind: str(folder / f"{kind}.keras") for kind in made}


IMPORT = "from sepssl.pipelines.colab import chosen_recordings"
CONFIG = SceneConfig(duration=1.5, max_sources=2, source_count_probabilities=(0.5, 0.5))


def scenes(usual, count):
    """Fewer scenes than a notebook makes, and short ones."""
    return {
        IMPORT: f"from sepssl.data.scenes import SceneConfig\n{IMPORT}",
        f"scenes={usual})": f"scenes={count}, config={CONFIG!r})",
    }


def small(name, changes):
    """The notebook with parts of its code replaced."""
    notebook = committed(name)
    for code, smaller in changes.items():
        (cell,) = (cell for cell in notebook.cells if code in cell.source)
        cell.source = cell.source.replace(code, smaller)
    return notebook


@pytest.fixture
def run(eager, forked_exports, tmp_path, monkeypatch):
    """Runs the cells of a notebook here; gives what they have defined, and the last `value`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")

    def run(name, changes):
        names = {"__name__": "__main__"}
        for number, cell in enumerate(small(name, changes).cells):
            if cell.cell_type == "code" and "%pip" not in cell.source:
                tree = ast.parse(cell.source, f"{name}, cell {number}")
                if isinstance(tree.body[-1], ast.Expr):  # what a notebook would show
                    tree.body[-1] = ast.parse(f"value = {ast.unparse(tree.body[-1])}").body[0]
                exec(compile(tree, f"{name}, cell {number}", "exec"), names)
        return names

    return run


def test_recordings_that_a_form_names(tmp_path, monkeypatch):
    """Colab's own part is a stand-in, since Colab is not a package."""
    with pytest.raises(InputError, match="upload: is for Colab; expected a folder or a sound file"):
        chosen_recordings("upload", tmp_path, 2)
    assert not any(tmp_path.iterdir())
    mounted, colab = [], types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=mounted.append)
    colab.files = types.SimpleNamespace(
        upload=lambda target_dir: (pathlib.Path(target_dir) / "bird.wav").touch()
    )
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    assert chosen_recordings("own", tmp_path, 2) == pathlib.Path("own")
    assert not mounted
    uploaded = chosen_recordings("upload", tmp_path / "out", 2)
    assert [path.name for path in uploaded.iterdir()] == ["bird.wav"]
    assert uploaded.is_relative_to(tmp_path / "out")
    own = "/content/drive/MyDrive/own"
    assert chosen_recordings(own, tmp_path, 2) == pathlib.Path(own)
    chosen_recordings("own", "/content/drive/MyDrive/out", 2)
    assert mounted == ["/content/drive", "/content/drive"]


def test_quickstart(run, models):
    separator, encoder = models["separator"], models["encoder"]
    call = "paths = quickstart("
    settings = f"""config.update(excerpts=4, excerpt_seconds=1.5, window_seconds=1.0)
config.update(shown=1, queries=1)
for stage, model in (("separator", {separator!r}), ("encoder", {encoder!r})):
    config[stage].train.update(init_from=model, steps=2, batch_size=4, warmup_steps=1)
    config[stage].train.update(log_every=1, state_steps=(2,))
config.separator.train.crop_seconds = 1.0
config.encoder.views.separators = {separator!r}
"""
    names = run("quickstart", scenes(40, 4) | {call: settings + call})
    page = names["paths"].page.read_text()
    # The page in its frame, and the map in the frame of the page.
    shown = html.unescape(html.unescape(names["value"]._repr_html_()))
    assert shown.count("<audio") == page.count("<audio") + 1
    assert shown.count("data:audio/flac;base64") == 4
    assert len(list(names["paths"].recordings.glob("*.wav"))) == 4


def test_separate_in_a_kernel(models, tmp_path, monkeypatch):
    # Where it is set, kernels do not show what is written past Python, such as TensorFlow's logs.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    changes = scenes(6, 2) | {'"small"  # @param': f"{models['separator']!r}  # @param"}
    notebook = small("separate", changes)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=250, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    written = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not written
    text = "".join(output.get("text", "") for output in outputs)
    (difference,) = re.findall("channels' sum and the recording: (.*)", text)
    assert float(difference) < 1e-5
    (shown,) = (o.data["text/html"] for o in outputs if "text/html" in o.get("data", {}))
    assert shown.count("<audio") == 4
    with zipfile.ZipFile(tmp_path / "separated" / "channels.zip") as archive:
        files = [name for name in archive.namelist() if name.endswith(".wav")]
    assert len(files) == 2 * 3


def test_search(run, models):
    changes = {f'{kind.upper()} = "small"': f"{kind.upper()} = {models[kind]!r}" for kind in models}
    changes |= {
        "WINDOW = 2.5": "WINDOW = 1.0",
        '"farm/21-crow-rain.wav@2.5"': 'f"{clips.names[0]}@0"',
    }
    names = run("search", scenes(60, 4) | changes)
    rows, query = read_rows("searched/index"), names["query"]
    cosines = rows.vectors @ rows.vectors[np.flatnonzero(rows.numbers == query.row)[0]]
    best = {name: -1.0 for name in rows.names if name != query.recording}
    for place, name in enumerate(np.array(rows.names)[rows.recording]):
        if name in best:
            best[name] = max(best[name], float(cosines[place]))
    found = {window.recording: window.score for window in names["found"]}
    assert list(found) == sorted(best, key=lambda name: -best[name])
    np.testing.assert_allclose(list(found.values()), sorted(best.values())[::-1], atol=2e-3)
    assert names["points"] == len(rows)
    assert len(pathlib.Path("searched/found.csv").read_text().splitlines()) == 1 + 3


def test_classify(run, models):
    heard = [make_scene(CONFIG, 0, "files", i).class_names for i in range(24)]
    counts = collections.Counter(name for some in heard[:12] for name in some)
    classes = tuple(name for name, _ in counts.most_common(2))
    changes = {
        'ENCODER = "small"': f"ENCODER = {models['encoder']!r}",
        'CLASSES = ("footsteps", "helicopter", "rain")': f"CLASSES = {classes}",
        "table.writerow([name, 0, 5, ": "table.writerow([name, 0, 1.5, ",
    }
    names = run("classify", scenes(200, 24) | changes)
    assert names["classifier"].classes == tuple(sorted(classes))
    true = [a for a in read_annotations("classified/scenes/annotations.csv") if a.label in classes]
    given = [a for a in names["annotations"] if a.label]
    first = {name for name in names["clips"].names if int(name.split("/")[1][:2]) < 12}
    assert {a[:4] for a in given} == {a[:4] for a in true if a.recording in first}
    assert {a.recording for a in names["annotations"]} == first == names["labelled"]
    for report in names["reports"]:
        assert report.recordings <= counts[report.label]
        assert report.average_precision is not None
    assert pathlib.Path("classified/next.html").exists()
    # Own recordings without labels: windows to label.
    pathlib.Path("classified/labels/scenes.csv").unlink()
    (cell,) = (cell for cell in committed("classify").cells if "label.html" in cell.source)
    exec(cell.source, names | {"INPUT": "own"})
    page = pathlib.Path("classified/label.html").read_text()
    assert page.count("<section data-window") == 20


def test_train(run):
    changes = scenes(60, 6)
    for call, settings in {
        "run = sepssl.train_separator(": """
config.train.update(steps=2, state_steps=(0, 2), batch_size=4, crop_seconds=1.0, log_every=1)
config.data.num_validation = 2
config.separator.update(bottleneck_channels=8, conv_channels=12, dilations_per_repeat=1)
config.separator.update(unroll=False)
""",
        "encoder_run = sepssl.train_encoder(": """
config.train.update(steps=2, state_steps=(2,), batch_size=4, log_every=1)
config.encoder.update(embedding_size=16, width=4)
""",
    }.items():
        changes[call] = settings + call
    names = run("train", changes)
    channels, mixture = names["channels"], names["scene"].mixture
    np.testing.assert_allclose(channels.sum(axis=0), mixture, atol=1e-5)
    assert [path.stem for path in names["run"].states()] == ["step-0000000", "step-0000002"]
    np.testing.assert_allclose(names["theirs"], names["ours"], atol=1e-5)
    assert names["ours"].shape == (1, 16)
    with zipfile.ZipFile("trained/saved_model.zip") as archive:
        assert "saved_model.pb" in archive.namelist()
