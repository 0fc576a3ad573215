"""The separators that come with the package: `small`, `small-8` and `small-mixit`, after a colon.

    sepssl-train --config=configs/separator_shipped.py:small-mixit --workdir=/tmp/small-mixit \
        --config.data.directory=mix:SOUNDS.csv

`small` and `small-8` learned from recordings and, in the same batches, from mixtures of known
sources; `small` has 4 outputs and leaves single sounds whole, `small-8` has 8 and separates more.
`small-mixit` learned from recordings alone, as the paper has it. SOUNDS.csv, and the program that
trained them on a GPU, on built-in scenes as well: tests/benchmarks/gpu. `small-8` was then trained
on with sources alone, and without mixture consistency only from there on: docs/models.md.
"""

from ml_collections import ConfigDict

from sepssl.configs import separator_small

NAMES = ("small", "small-8", "small-mixit")


def get_config(name: str = "small") -> ConfigDict:
    if name not in NAMES:
        raise ValueError(f"separator_shipped.py:{name}: expected one of {', '.join(NAMES)}")
    config = separator_small.get_config()
    config.data.update(num_clips=27000)
    config.data.mix.update(folds="0,1,2,3,4")
    config.train.update(
        precision="bfloat16",
        steps=16780,
        learning_rate=2e-3,
        average_decay=0.999,
        kept_weights="average",
        state_steps=(0, 300, 3000, 16780),
    )
    if name in ("small", "small-8"):
        # A batch: 16 recordings, which make 8 mixtures, and 8 mixtures with their sources.
        config.train.update(
            batch_size=24, supervised_fraction=1 / 3, silent_weight=0.2, silent_max_snr=20.0
        )
    if name == "small-8":
        config.data.update(num_clips=29000)
        config.separator.update(num_sources=8, mixture_consistency="none")
        config.train.update(silent_weight=0.03, steps=33430, state_steps=(0, 300, 3000, 33430))
    if name == "small-mixit":
        config.separator.update(num_sources=8)
        config.train.update(batch_size=32, sparsity_weight=7.0, penalty_ramp_steps=11746)
    return config
