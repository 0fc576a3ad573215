"""What the encoders of `configs/paper_ablation.py` go by: the sources, or the recording's ambience.

    python tests/benchmarks/shortcut.py /tmp/ablation

Takes the folder that the ablation left, prints a table: mean and standard deviation over the seeds
of `sepssl.evaluation.shortcut.sources_preferred`, 0.5 for an encoder that has no preference.
"""

import functools
import pathlib
import sys

import keras
import numpy as np

from sepssl import load_encoder
from sepssl.configs import paper_ablation
from sepssl.evaluation.baselines import baselines
from sepssl.evaluation.shortcut import shortcut_clips, sources_preferred
from sepssl.pipelines.ablation import encoder_folder, expected_cells
from sepssl.representation.build import make_encoder
from sepssl.representation.embed import embed_recording
from sepssl.training.clips import scene_config

SCENES = 300


def main(workdir: str) -> None:
    config = paper_ablation.get_config()
    cells = expected_cells(config)
    found = {row["name"]: [] for row in config.rows}
    for seed in config.seeds:
        clips = shortcut_clips(scene_config(config.encoder.data), seed, SCENES)
        for row in config.rows:
            embed = embedding_of(pathlib.Path(workdir), config, row, seed, cells[row["name"]])
            if embed:
                found[row["name"]].append(sources_preferred(embed, clips))
                print(f"seed {seed}, {row['name']}: {found[row['name']][-1]:.3f}", flush=True)
    print("| | seeds | sources preferred |\n|---|---|---|")
    for name, shares in found.items():
        if shares:
            spread = f" ± {np.std(shares, ddof=1):.3f}" if len(shares) > 1 else ""
            print(f"| {name} | {len(shares)} | {np.mean(shares):.3f}{spread} |")


def embedding_of(workdir, config, row, seed, settings):
    """waveform -> embedding by the encoder of a cell, or None if there is none."""
    baseline = row.get("baseline", "")
    if baseline:
        keras.utils.set_random_seed(seed)
        return getattr(baselines(make_encoder(config.encoder.encoder)), baseline)
    file = encoder_folder(workdir, row, seed, settings.get(seed, "")) / "final.keras"
    return functools.partial(embed_recording, load_encoder(file)) if file.exists() else None


if __name__ == "__main__":
    main(*sys.argv[1:])
