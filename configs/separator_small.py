"""A MixIT separator for 2 CPU cores: STFT basis, 4 sources.

    sepssl-train --config=configs/separator_small.py --workdir=/tmp/separator \
        [--config.data.directory=FOLDER]

Without a folder it trains on the built-in scenes. Under an hour on 2 cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "separator",
            "seed": 0,
            "data": {
                # Recordings: a folder, a file, a manifest, "tfds:NAME"; "" for the built-in scenes;
                # "mix:FOLDER" for scenes mixed from a folder of isolated sounds.
                "directory": "",
                "data_dir": "",  # folder of TFDS datasets; "" for TFDS's own
                "decoder": "soundfile",  # or "tfio" (TensorFlow 2.17), "tensorflow" (16-bit wav)
                "cache": "",  # folder for decoded clips and channels; "" for the run's own
                "sample_rate": 16000,  # Hz
                "seed": 0,
                "num_clips": 8000,  # of the built-in or mixed scenes
                "num_validation": 200,  # held out of a folder: at most this, and a tenth of it
                "clip_seconds": 4.0,  # of scenes; recordings are cut into about as long ones
                "ambience_range_db": (-20.0, -5.0),  # of the built-in scenes; () for none
                "mix": {  # scenes of "mix:FOLDER"
                    # Folds to train and to validate on, with commas between them; without either,
                    # all but the last two, and the one before the last.
                    "folds": "",
                    "validation_folds": "",
                    "source_count_probabilities": (0.2, 0.3, 0.3, 0.2),  # of 1, 2, ... sources
                    "part_seconds": (1.0, 4.0),  # of a sound that are heard
                    "level_range_db": (-12.0, 6.0),  # of a sound
                    "speed_range": (1.0, 1.0),  # lowest and highest at which a sound is played
                    "groups": 0,  # drawn groups of classes that occur together; 0: any do
                    "group_size": 8,  # classes in a group
                    "backgrounds": "",  # labels heard throughout, with commas; one in every scene
                    "background_range_db": (-12.0, 0.0),  # level of such a sound
                    "rooms": "",  # folder of room responses; "" for none
                    "microphone": False,  # True: a random frequency response in every scene
                },
            },
            "separator": {
                "num_sources": 4,
                "basis": "stft",  # or "learned"
                "frame_length": 512,  # samples
                "hop": 256,
                "num_coefficients": 256,  # of the learned basis
                "bottleneck_channels": 128,
                "conv_channels": 256,
                "dilations_per_repeat": 6,
                "repeats": 3,
                "long_skips": False,
                "causal": False,  # True needs normalize_input False, consistency uniform or none
                "unroll": True,  # faster where the network is small
                "rematerialize": False,
                "mixture_consistency": "uniform",
                "normalize_input": True,
            },
            "train": {
                "strategy": "auto",  # or "default", "mirrored", "multiworker", "tpu"
                "precision": "float32",  # or "bfloat16", "float16": mixed, for accelerators
                # .keras file to start from; its network takes the place of the one described above.
                "init_from": "",
                "objective": "mixit",  # or "remixit", "self_remixing"
                "steps": 10000,
                "batch_size": 16,  # recordings
                # Parts of a batch that are computed one after the other, in less memory.
                "gradient_accumulation_steps": 1,
                "num_mixtures": 2,  # recordings in a mixture of mixtures
                "crop_seconds": 3.0,
                "gain_range_db": (0.0, 0.0),  # of a recording in a mixture of mixtures
                "single_mixture_fraction": 0.0,  # mixtures of mixtures that are one recording
                "reversed_fraction": 0.0,  # of the crops: played backwards
                "supervised_fraction": 0.0,  # of the batch: separated by PIT, with true sources
                "signal_loss": "log_mse",  # or "snr", "si_snr"
                # Of silent references of PIT: weight, beside 1 of others, and largest SNR in dB.
                "silent_weight": 1.0,
                "silent_max_snr": 30.0,
                "search": "exhaustive",  # or "least_squares", for many sources
                "sparsity_weight": 0.0,
                "covariance_weight": 0.0,
                "penalty_ramp_steps": 0,  # over which both weights grow from 0
                "average_decay": 0.0,  # of an EMA of the weights, a step; 0 for none
                "kept_weights": "current",  # in states and at the end; or "average"
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 50,  # at most half of the steps
                "clip_norm": 5.0,
                "log_every": 20,
                "checkpoint_every": 500,
                "keep_checkpoints": 2,  # the latest
                "state_steps": (),  # kept; (): 0, 30, 100, 300, ... and the last
            },
        }
    )
