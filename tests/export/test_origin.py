import hashlib
import json
import pathlib
import shutil
import subprocess

import pytest

from sepssl.errors import InputError
from sepssl.export import origin_of, save_encoder
from sepssl.export.card import describe_encoder, write_card
from sepssl.weights import model_file

CHECKS = {"max_error": 0.0, "relative_error": 0.0, "cosine": 1.0}


@pytest.fixture
def run(tmp_path):
    """A run's folder, as `sepssl-train` leaves it; `.keras` files need not be models here."""
    run = tmp_path / "run"
    (run / "states").mkdir(parents=True)
    (run / "final.keras").write_bytes(b"final")
    (run / "states" / "step-0000100.keras").write_bytes(b"state")
    config = {
        "task": "encoder",
        "data": {"directory": "/home/somebody/birds/", "num_clips": 10},
        "views": {"separators": "/a/early.keras,/b/late.keras", "dirs": ["/x/y"]},
    }
    (run / "config.json").write_text(json.dumps(config))
    lines = [{"step": 100, "loss": 3.0, "probe/map": 0.25}, {"step": 200, "loss": 2.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "states" / "step-0000100.json").write_text(json.dumps({"step": 100, "loss": 3.5}))
    return run


def test_last_metrics_and_configuration_without_folders(run):
    (record,) = origin_of(run / "final.keras").models
    assert record == {
        "file": "final.keras",
        "sha256": hashlib.sha256(b"final").hexdigest(),
        "config": {
            "task": "encoder",
            "data": {"directory": "birds", "num_clips": 10},
            "views": {"separators": "early.keras,late.keras", "dirs": ["y"]},
        },
        "metrics": {"step": 200, "loss": 2.0, "probe/map": 0.25},
    }


def test_a_kept_state_has_its_own_metrics(run):
    (record,) = origin_of(run / "states" / "step-0000100.keras").models
    assert record["metrics"] == {"step": 100, "loss": 3.5}
    assert record["config"]["task"] == "encoder"


def test_paths_relative_to_the_states_folder(run, monkeypatch):
    monkeypatch.chdir(run / "states")
    (record,) = origin_of("step-0000100.keras").models
    assert record["metrics"] == {"step": 100, "loss": 3.5}


def test_a_file_in_no_run_has_no_configuration(run):
    path = run / "copied.keras"
    path.write_bytes(b"copied")
    (record,) = origin_of(path).models
    assert record == {"file": "copied.keras", "sha256": hashlib.sha256(b"copied").hexdigest()}


def test_attributions_are_passed_on_once_each(run, encoder, tmp_path):
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two"), ("d", None)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.keras").write_text(folder)
        if text:
            (tmp_path / folder / "ATTRIBUTION.csv").write_text(text)
    origin = origin_of(*(tmp_path / folder / "model.keras" for folder in "abcd"))
    assert origin.attributions == (b"one", b"two")
    (tmp_path / "out").mkdir()
    card = write_card(tmp_path / "out", "saved_model", describe_encoder(encoder), CHECKS, origin)
    assert card["attribution"] == ["ATTRIBUTION.csv", "ATTRIBUTION_2.csv"]
    assert (tmp_path / "out" / "ATTRIBUTION_2.csv").read_text() == "two"
    text = (tmp_path / "out" / "README.md").read_text()
    assert "their authors, are in `ATTRIBUTION.csv` and `ATTRIBUTION_2.csv`." in text


def test_what_cannot_be_read_is_named(run):
    (run / "metrics.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"run: config\.json or metrics\.jsonl could not be read"):
        origin_of(run / "final.keras")
    with pytest.raises(InputError, match=r"nothing\.keras: could not be read"):
        origin_of(run / "nothing.keras")


def test_card_and_manifest(run, encoder, tmp_path):
    origin = origin_of(run / "final.keras", license="CC-BY-4.0")
    card = save_encoder(encoder, tmp_path / "encoder", origin)
    folder = tmp_path / "encoder"
    assert json.loads((folder / "card.json").read_text()) == card
    assert card["training"] == list(origin.models)
    assert card["license"] == "CC-BY-4.0"
    text = (folder / "README.md").read_text()
    for part in ("200 steps on birds", "- loss: 2\n", "CC-BY-4.0", "16000 Hz", "[batch, 16]"):
        assert part in text
    listed = {
        line.split("  ", 1)[1]: line.split()[0]
        for line in (folder / "manifest.sha256").read_text().splitlines()
    }
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(listed) == files - {"manifest.sha256"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    check = ["sha256sum", "--check", "--strict", "--quiet", "manifest.sha256"]
    subprocess.run(check, cwd=folder, check=True)
    pathlib.Path(folder / "README.md").write_text("other")
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode != 0


def test_a_model_that_comes_with_the_package_is_named(encoder, tmp_path):
    """By its content, wherever the file lies."""
    shutil.copy(model_file("small", "Encoder"), tmp_path / "final.keras")
    origin = origin_of(tmp_path / "final.keras")
    assert origin.models[0]["name"] == "small"
    (tmp_path / "out").mkdir()
    write_card(tmp_path / "out", "saved_model", describe_encoder(encoder), CHECKS, origin)
    assert ": `small`, which comes with sepssl." in (tmp_path / "out" / "README.md").read_text()
