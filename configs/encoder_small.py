"""An encoder for 2 CPU cores, trained to associate mixtures with their separated channels.

    sepssl-train --config=configs/encoder_small.py --workdir=/tmp/encoder \
        --config.views.separators=/tmp/separator/final.keras [--config.data.directory=FOLDER]

Several separators, or several convergence states of one, are given with commas between them.
Without a folder it trains on the built-in scenes. Under an hour on 2 cores.
"""

from ml_collections import ConfigDict

from sepssl.configs import separator_small


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "task": "encoder",  # or "supervised", on the labels of the clips
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
                "test_fold": "",  # of a fold column, for labels and probe; "" for the last
                "num_clips": 4000,  # of the built-in or mixed scenes
                "clip_seconds": 4.0,  # of scenes; recordings are cut into about as long ones
                "ambience_range_db": (-20.0, -5.0),  # of the built-in scenes; () for none
                "mix": separator_small.get_config().data.mix,  # as the separator's
            },
            "views": {
                # .keras files, or folders of `sepssl-corpus separate --format=store`, separated by
                # commas; or "true_sources".
                "separators": "",
                "online": False,  # True: separated in every step, not once and stored
                "max_distance_seconds": 3.0,  # between the starts of the two patches
                "overlap": True,  # False: the two patches share nothing
                "mixture_mixture": 0.0,
                "mixture_channel": 1.0,
                "channel_channel": 0.0,
                "channel_floor_db": -10.0,  # below the loudest channel: quieter ones are not shown
                "mixture_floor_db": -30.0,  # below the mixture; where none is left, it is shown
                "example_mixing": 0.0,
                "min_mixing_db": -20.0,
                "max_mixing_db": -5.0,
                "mixing_domain": "waveform",  # or "log_mel"
                # Random frequency response of every view; 0 for none. Not in the paper. 12 dB
                # helped most on the built-in scenes, and cost on real sounds.
                "equalization_db": 0.0,
                "time_masks": 1,
                "time_width": 24,  # frames of 10 ms
                "frequency_masks": 1,
                "frequency_width": 12,  # mel bands
            },
            "encoder": {
                "backbone": "small",  # or cnn14, vggish, mobilenet_v1, efficientnet_b0
                "front_end": "log_mel",  # or "panns", as PANNs' CNN14 wants it
                "embedding_size": 0,  # 0 for the network's own
                "width": 0,  # channels of the first convolution; 0 for the network's own
                # "small" only: channels that are not averaged over frequency.
                "unpooled_channels": 0,
                "patch_hop_frames": 48,  # of 10 ms, from patch to patch of a clip
                "cover_end": True,  # False: what follows the last whole patch does not count
                # What is brought to one level, so that loudness makes no difference: "waveform",
                # "patch", or "none".
                "normalize_level": "waveform",
            },
            "objective": {
                "similarity_weight": 1.0,
                "coincidence_weight": 1.0,
                "temperature": 0.2,
                "learn_temperature": False,
                "projection_size": 128,
                "hidden_size": 256,
            },
            "train": {
                "strategy": "auto",  # or "default", "mirrored", "multiworker", "tpu"
                "precision": "float32",  # or "bfloat16", "float16": mixed, for accelerators
                # .keras file to start from; its network takes the place of the one described above.
                "init_from": "",
                "steps": 3000,
                "batch_size": 64,
                # Parts of a batch that are computed one after the other, in less memory.
                "gradient_accumulation_steps": 1,
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 100,  # at most half of the steps
                "clip_norm": 0.0,
                "log_every": 20,
                "checkpoint_every": 200,
                "keep_checkpoints": 2,  # the latest
                "probe_every": 500,  # steps; a linear classifier, where there are labels
                "probe_clips": 400,
                # Pairs of views by which the final encoder's embeddings are whitened, which helps
                # search; 0 for none.
                "whitening_pairs": 0,
                "state_steps": (),  # kept; (): 0, 30, 100, 300, ... and the last
            },
        }
    )
