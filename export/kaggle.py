"""The metadata files that Kaggle's command line reads of a hub's folder.

Formats: https://github.com/Kaggle/kaggle-cli/blob/main/docs/models_metadata.md
"""

import json
import pathlib
import re
from collections.abc import Mapping

MODEL, VARIATION = "model-metadata.json", "model-instance-metadata.json"
# Kaggle's own word for what is still to be filled in: its commands refuse it.
OWNER = "INSERT_OWNER_SLUG_HERE"
_FRAMEWORKS = {"saved_model": "tensorFlow2", "tflite": "tfLite", "onnx": "onnx"}
_LICENSES = {  # by SPDX identifier in lower case
    "apache-2.0": "Apache 2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0: Public Domain",
    "cc-by-3.0": "Attribution 3.0 Unported (CC BY 3.0)",
    "cc-by-4.0": "Attribution 4.0 International (CC BY 4.0)",
    "cc-by-nd-4.0": "Attribution-NoDerivatives 4.0 International (CC BY-ND 4.0)",
    "cc-by-nc-4.0": "Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)",
    "cc-by-sa-3.0": "CC BY-SA 3.0",
    "cc-by-sa-4.0": "CC BY-SA 4.0",
    "cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0",
    "agpl-3.0": "GNU Affero General Public License 3.0",
    "gpl-2.0": "GPL 2",
    "gpl-3.0": "GPL 3",
    "lgpl-3.0": "GNU Lesser General Public License 3.0",
    "mit": "MIT",
}


def kaggle_license(license: str) -> str:
    """Kaggle's name of a licence, "" if it has none.

    Args:
        license: SPDX identifier. Kaggle does not tell "only" from "or later".
    """
    name = license.lower()
    return _LICENSES.get(name.removesuffix("-only").removesuffix("-or-later"), "")


def write_kaggle_metadata(folder: pathlib.Path, title: str, card: str, license: str) -> None:
    """Writes `model-metadata.json` and, for every format, a `model-instance-metadata.json`.

    All is filled in but the owner, for whom Kaggle's placeholder stands, and a licence that Kaggle
    has no name for (see `kaggle_license`), which is left empty: its commands refuse both.

    Args:
        folder: of the hub, with a `README.md` in each format's folder.
        title: of the model.
        card: the model's card, in Markdown.
        license: SPDX identifier; "" if not stated.
    """
    slug = title.lower().replace(" ", "-")
    model = {
        "ownerSlug": OWNER,
        "title": title,
        "slug": slug,
        "subtitle": "",
        "isPrivate": True,
        "description": card,
        "publishTime": "",
        "provenanceSources": "",
    }
    _write(folder / MODEL, model)
    usages = {"keras": (folder, card)} | {
        framework: (folder / part, (folder / part / "README.md").read_text(encoding="utf-8"))
        for part, framework in _FRAMEWORKS.items()
    }
    for framework, (place, usage) in usages.items():
        variation = {
            "ownerSlug": OWNER,
            "modelSlug": slug,
            "instanceSlug": "float32",
            "framework": framework,
            "overview": "",
            "usage": re.sub(r"\bDIRECTORY\b", "${PATH}", usage),
            "licenseName": kaggle_license(license),
            "fineTunable": framework == "keras",
            "trainingData": [],
            "modelInstanceType": "Unspecified",
            "baseModelInstance": "",
            "externalBaseModelUrl": "",
        }
        _write(place / VARIATION, variation)


def _write(path: pathlib.Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
