"""Every command and every example on README and the pages is run, or says why not."""

# Trainings on the pages, made small. Their networks are those of the pages.
SMALL = {
    "separator": (
        "train.steps=2",
        "train.batch_size=4",
        "train.crop_seconds=1.0",
        "separator.bottleneck_channels=4",
        "separator.conv_channels=8",
        "separator.dilations_per_repeat=2",
        "separator.repeats=1",
        "separator.unroll=False",
        "data.num_clips=16",
        "data.num_validation=2",
        "data.clip_seconds=1.5",
    ),
    "encoder": (
        "train.steps=2",
        "train.batch_size=4",
        "encoder.width=2",
        "train.probe_clips=8",
        "views.max_distance_seconds=0.3",
        "data.num_clips=16",
        "data.clip_seconds=1.5",
    ),
}
