"""Trains a separator or an encoder, or a table of encoders.

sepssl-train --config=FILE --workdir=DIR [--config.key=value ...]
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from sepssl.cli.main import run_main

FLAGS = flags.FLAGS

config_flags.DEFINE_config_file(
    "config", None, "Configuration, a Python file as in configs/.", lock_config=True
)
flags.mark_flag_as_required("config")
flags.DEFINE_string("workdir", None, "Folder of the run, new or to be continued.", required=True)


def main(argv):
    from sepssl.errors import InputError
    from sepssl.pipelines.ablation import run_ablation
    from sepssl.training.encoder import train_encoder
    from sepssl.training.separator import train_separator

    config_file = config_flags.get_config_filename(FLAGS["config"]).split(":")[0]
    if not pathlib.Path(config_file).is_file():
        raise InputError(f"{config_file}: no such file; expected a configuration in Python")
    tasks = {
        "separator": train_separator,
        "encoder": train_encoder,
        "supervised": train_encoder,
        "ablation": run_ablation,
    }
    if FLAGS.config.get("task") not in tasks:
        raise InputError(f"task={FLAGS.config.get('task')!r}: expected one of {', '.join(tasks)}")
    run = tasks[FLAGS.config.task](FLAGS.config, FLAGS.workdir)
    if FLAGS.config.task == "ablation":
        print(f"table: {run / 'table.md'}; figure: {run / 'figure.svg'}")
        return
    print(f"{FLAGS.config.task}: {run.final}")
    print(f"states: {run.path / 'states'}; metrics: {run.path / 'metrics.jsonl'}")
    print(f"curves: tensorboard --logdir={run.path / 'tensorboard'}")


def run():
    run_main(main)


if __name__ == "__main__":
    run()
