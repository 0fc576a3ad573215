"""How fast the commands are, beside an earlier version of this package.

    python tests/benchmarks/speed.py [--before=PYTHON] [--turns=3] \
        [start separator encoder evaluation]

PYTHON is that of an environment with the earlier version, installed from a worktree:

    git worktree add /tmp/before 78af203 && python -m venv /tmp/before/venv
    /tmp/before/venv/bin/pip install -e /tmp/before

Both take turns on all cores, so that a busy machine hurts both alike. Of trainings, steps 20 to 70
count, and of evaluations, the clips beyond the first ten. Times are of the CPU, medians of the
turns; "kernel" is the share of them that the kernel takes. A ratio above 1: now is faster.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

FROM, TO = 20, 70  # steps
FEW, MANY = 10, 50  # clips
COMMON = (
    "--config.data.num_clips=100",
    f"--config.train.steps={TO}",
    "--config.train.log_every=10",
)
TRAININGS = {
    "separator": ("separator_small", "--config.data.num_validation=2"),
    "encoder": (
        "encoder_small",
        "--config.views.mixture_mixture=1",  # no separator to train first
        "--config.views.mixture_channel=0",
        "--config.train.warmup_steps=20",
    ),
}
QUIET = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}


def command(python, name, *arguments):
    return [str(pathlib.Path(python).with_name(name)), *arguments]


def finished(arguments) -> dict[str, float]:
    """Seconds of a whole process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, env=QUIET)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {"cpu": user + kernel, "wall": time.perf_counter() - began}


def start(python, folder):
    """`import sepssl` and `--help`."""
    importing = finished([python, "-c", "import sepssl"])
    helped = finished(command(python, "sepssl-train", "--help"))
    return {
        "import sepssl, CPU s": importing["cpu"],
        "import sepssl, s": importing["wall"],
        "sepssl-train --help, CPU s": helped["cpu"],
        "sepssl-train --help, s": helped["wall"],
    }


def ticks(process) -> tuple[float, float]:
    """CPU seconds of a process so far: all, and those of the kernel."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    user, kernel = int(fields[11]), int(fields[12])
    return (user + kernel) / os.sysconf("SC_CLK_TCK"), kernel / os.sysconf("SC_CLK_TCK")


def train(task, python, folder):
    """The steps of a training, seen from outside, since earlier versions do not report them."""
    name, *own = TRAININGS[task]
    source = pathlib.Path(__file__).parents[2] if python == sys.executable else source_of(python)
    with tempfile.TemporaryDirectory() as scratch:
        run = pathlib.Path(scratch, "run")
        arguments = [
            *command(python, "sepssl-train", f"--config={source}/configs/{name}.py"),
            f"--workdir={run}",
            f"--config.data.cache={folder}/cache",
            f"--config.train.state_steps=({TO},)",
            *COMMON,
            *own,
        ]
        began, at = time.perf_counter(), {}
        with subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET
        ) as process:
            while process.poll() is None:
                log = run / "metrics.jsonl"
                for line in log.read_text().splitlines() if log.exists() else ():
                    step = json.loads(line)["step"] if line.endswith("}") else 0
                    if step not in at:
                        at[step] = (time.perf_counter(), *ticks(process))
                time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
        final = pathlib.Path(folder, f"{task}.keras")
        final.write_bytes((run / "final.keras").read_bytes())
    (wall, cpu, kernel), steps = (b - a for a, b in zip(at[FROM], at[TO], strict=True)), TO - FROM
    return {
        "a step, CPU s": cpu / steps,
        "a step, s": wall / steps,
        "kernel": kernel / cpu,
        "until step 10, s": at[10][0] - began,
        "until step 10, CPU s": at[10][1],
    }


def source_of(python) -> pathlib.Path:
    code = "import sepssl, pathlib; print(pathlib.Path(sepssl.__file__).parents[1])"
    return pathlib.Path(subprocess.check_output([python, "-P", "-c", code], text=True).strip())


def evaluate(python, folder):
    """A clip of `sepssl-evaluate --separator`, the built-in scenes' synthesis included."""
    separator = pathlib.Path(folder, "separator.keras")
    if not separator.exists():
        train("separator", python, folder)
    found = {}
    for clips in (FEW, MANY):
        output = pathlib.Path(folder, "scores.json")
        output.unlink(missing_ok=True)
        found[clips] = finished(
            command(
                python,
                "sepssl-evaluate",
                f"--separator={separator}",
                "--dataset=scenes",
                f"--num_clips={clips}",
                f"--output={output}",
            )
        )
    return {
        f"a clip, {unit}": (found[MANY][key] - found[FEW][key]) / (MANY - FEW)
        for key, unit in (("cpu", "CPU s"), ("wall", "s"))
    }


ITEMS = {
    "start": start,
    "separator": lambda *where: train("separator", *where),
    "encoder": lambda *where: train("encoder", *where),
    "evaluation": evaluate,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", help="the earlier version's Python")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("items", nargs="*", choices=[*ITEMS, []], help="all by default")
    options = parser.parse_args()
    pythons = {"before": options.before} if options.before else {}
    pythons["now"] = sys.executable
    with tempfile.TemporaryDirectory() as scratch:
        for version in pythons:
            pathlib.Path(scratch, version).mkdir()
        for item in options.items or ITEMS:
            measured = {version: [] for version in pythons}
            for _ in range(options.turns):
                for version, python in pythons.items():
                    measured[version].append(ITEMS[item](python, pathlib.Path(scratch, version)))
            medians = {
                version: {key: statistics.median(m[key] for m in turns) for key in turns[0]}
                for version, turns in measured.items()
            }
            print(f"\n{item:<30}" + "".join(f"{version:>10}" for version in pythons) + "     ratio")
            for key in medians["now"]:
                values = [medians[version][key] for version in pythons]
                ratio = f"{values[0] / values[-1]:10.2f}" if options.before else ""
                print(f"{key:<30}" + "".join(f"{value:10.3f}" for value in values) + ratio)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
