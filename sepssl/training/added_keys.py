"""Configuration keys that older runs do not have, with the values equivalent to their absence."""

import json

# Every key added since 0.1.0, with the value that leaves everything as it was without the key. A
# key of a stage, dotted; in a configuration that holds stages (quickstart, ablation) it counts too.
ADDED_KEYS = {
    "data.data_dir": "",
    "data.decoder": "soundfile",
    "data.mix.background_range_db": (-12.0, 0.0),
    "data.mix.backgrounds": "",
    "data.mix.folds": "",
    "data.mix.group_size": 8,
    "data.mix.groups": 0,
    "data.mix.level_range_db": (-12.0, 6.0),
    "data.mix.microphone": False,
    "data.mix.part_seconds": (1.0, 4.0),
    "data.mix.rooms": "",
    "data.mix.source_count_probabilities": (0.2, 0.3, 0.3, 0.2),
    "data.mix.speed_range": (1.0, 1.0),
    "data.mix.validation_folds": "",
    "data.test_fold": "",
    "encoder.cover_end": False,
    "encoder.front_end": "log_mel",
    "encoder.normalize_level": "none",
    "encoder.unpooled_channels": 0,
    "train.average_decay": 0.0,
    "train.gradient_accumulation_steps": 1,
    "learning_rate.config.phases": (),
    "train.init_from": "",
    "train.keep_checkpoints": 2,
    "train.kept_weights": "current",
    "train.objective": "mixit",
    "train.penalty_ramp_steps": 0,
    "train.precision": "float32",
    "train.reversed_fraction": 0.0,
    "train.silent_max_snr": 30.0,
    "train.silent_weight": 1.0,
    "train.whitening_pairs": 0,
}


def without_added_keys(config: dict) -> dict:
    """A nested configuration without those of `ADDED_KEYS` that have no effect.

    Configurations that give the same results are then equal, whichever versions wrote them.
    """
    added = {tuple(key.split(".")): _plain(value) for key, value in ADDED_KEYS.items()}

    def kept(part: dict, path: tuple[str, ...]) -> dict:
        result = {}
        for key, value in part.items():
            place = (*path, key)
            if isinstance(value, dict):
                section = kept(value, place)
                if section or not value:  # a section of added keys alone was not there before
                    result[key] = section
            elif not any(
                place[-len(name) :] == name and _plain(value) == neutral
                for name, neutral in added.items()
            ):
                result[key] = value
        return result

    return kept(config, ())


def _plain(value):
    """A value as JSON has it, so that a list equals a tuple, and 1 equals 1.0."""
    return json.loads(json.dumps(value))
