"""The encoder that comes with the package, `small`.

    sepssl-train --config=configs/encoder_shipped.py --workdir=/tmp/small \
        --config.data.directory=mix:SOUNDS.csv

It learns from single sounds, another one softly in the background of one view of each pair. Half of
the pairs are two patches of a sound, half a patch of it and one of a channel of the shipped
separator. SOUNDS.csv: tests/benchmarks/gpu/sounds.py.
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small


def get_config() -> ConfigDict:
    config = encoder_small.get_config()
    config.data.update(num_clips=8000)
    config.data.mix.update(
        folds="0,1,2,3,4",
        source_count_probabilities=(1.0, 0.0, 0.0, 0.0),
        part_seconds=(4.0, 4.0),
    )
    config.views.update(
        separators="small",
        mixture_mixture=0.5,
        mixture_channel=0.5,
        example_mixing=1.0,
    )
    config.encoder.update(width=16, embedding_size=512)
    config.train.update(steps=6000, probe_clips=0, whitening_pairs=4000)
    return config
