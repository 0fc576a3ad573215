"""Reads and writes indexes with perch-hoplite itself, in an environment of its own.

python hoplite_peer.py read FOLDER      prints what is in an index, and adds an annotation
python hoplite_peer.py write FOLDER     makes one
"""

import datetime
import json
import sys

import numpy as np
from ml_collections import config_dict
from perch_hoplite.db import datatypes, sqlite_usearch_impl


def read(folder):
    database = sqlite_usearch_impl.SQLiteUSearchDB.create(folder)
    windows = database.get_all_windows(include_embedding=True)
    query = windows[0].embedding.astype(np.float32)
    recording = windows[0].recording_id
    database.insert_annotation(
        recording, [0.1, 0.2], "owl", datatypes.LabelType.POSITIVE, "someone", "skip"
    )
    database.commit()
    found = {
        "count": database.count_embeddings(),
        "projects": list(database.get_all_projects()),
        "deployments": [d.name for d in database.get_all_deployments()],
        "recordings": [
            [r.filename, r.datetime and r.datetime.isoformat()]
            for r in database.get_all_recordings()
        ],
        "extra": {
            table: sorted(columns) for table, columns in database.get_extra_table_columns().items()
        },
        "offsets": [w.offsets for w in windows],
        "channels": [w.channel for w in windows],
        "levels": [w.level_db for w in windows],
        "norms": [w.norm for w in windows],
        "vectors": [w.embedding.astype(float).tolist() for w in windows],
        "metadata": sorted(database.get_metadata(None)),
        "sources": database.get_metadata("audio_sources").to_dict(),
    }
    for kind, approximate in (("exact", False), ("approximate", True)):
        results = database.search(query, 5, approximate=approximate)
        found[kind] = [[int(r.window_id), float(r.sort_score)] for r in results]
    found["labelled"] = [
        w.id
        for w in database.get_all_windows(
            annotations_filter=config_dict.create(eq=dict(label="owl"))
        )
    ]
    return found


def write(folder):
    config = sqlite_usearch_impl.get_default_usearch_config(8)
    database = sqlite_usearch_impl.SQLiteUSearchDB.create(folder, config)
    site = database.insert_deployment("site", "project")
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float16)
    for i, name in enumerate(("a.wav", "b.wav")):
        recording = database.insert_recording(name, datetime.datetime(2024, 1, 31), site)
        for j in range(20):
            database.insert_window(recording, [j * 5.0, j * 5.0 + 5.0], vectors[20 * i + j])
    database.commit()
    return {"vectors": vectors.astype(float).tolist()}


if __name__ == "__main__":
    print(json.dumps({"read": read, "write": write}[sys.argv[1]](sys.argv[2])))
