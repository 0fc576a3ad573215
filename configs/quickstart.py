"""A first look at recordings with the models that come with the package, and a minute of training.

    sepssl-quickstart --workdir=/tmp/sepssl [--input=FOLDER]

Some seconds of some recordings are separated, embedded, searched and mapped; then both models are
trained on them for a moment, to show how. About 2 minutes on 2 cores.
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small, separator_small


def get_config() -> ConfigDict:
    separator = separator_small.get_config()
    separator.train.update(
        init_from="small",
        steps=40,
        batch_size=8,
        learning_rate=2e-4,
        warmup_steps=5,
        log_every=5,
        checkpoint_every=40,
        state_steps=(40,),
    )
    encoder = encoder_small.get_config()
    encoder.views.separators = "small"
    encoder.train.update(
        init_from="small",
        steps=60,
        batch_size=16,
        learning_rate=2e-4,
        warmup_steps=5,
        log_every=5,
        checkpoint_every=60,
        state_steps=(60,),
        probe_clips=0,
    )
    for stage in (separator, encoder):
        stage.data.clip_seconds = 5.0
    return ConfigDict(
        {
            "input": "scenes",  # what `open_clips` opens
            "data_dir": "",  # folder of TFDS datasets; "" for TFDS's own
            "seed": 0,
            "excerpts": 60,  # of recordings; as many are separated, embedded, searched, mapped
            "excerpt_seconds": 5.0,  # the loudest of up to a minute
            "window_seconds": 2.5,  # of what is embedded; one begins every half of it
            "shown": 4,  # excerpts on the page, with their channels
            "queries": 3,  # sounds searched for
            "separator": separator,
            "encoder": encoder,
        }
    )
