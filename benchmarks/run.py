"""Run benchmarks: `python benchmarks/run.py NAME --json FILE`, or `all`.

Each file beside this one measures one thing against a peer in the same process and returns rows of
{name, value, unit, peer, peer_value, ratio}; ratios carry their spread over repeats. `--results`
writes them into the file of the machine's device in `results/`, beside what else it holds.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from physgen.errors import PhysgenError

HERE = Path(__file__).parent
ONE_RECIPE = "full-size"
"""The benchmark of a recipe that `--recipe` names."""


def available():
    return sorted(p.stem.replace("_", "-") for p in HERE.glob("*.py") if p.stem != "run")


def results_file(machine):
    """Return the file for the figures of a machine, by the name of its device."""
    device = machine["device"]
    name = f"cpu-{machine['cores']}-cores" if device == "cpu" else device.lower()
    return HERE / "results" / f"{re.sub('[^a-z0-9]+', '-', name).strip('-')}.json"


def load(name):
    path = HERE / f"{name.replace('-', '_')}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def machine():
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*available(), "all"])
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--json", type=Path, help="file to write the figures to")
    where.add_argument("--results", action="store_true", help="write them to that of the device")
    parser.add_argument("--recipe", help=f"of {ONE_RECIPE}")
    parser.add_argument("--set", nargs="*", default=[], help=f"key=value, of {ONE_RECIPE}")
    arguments = parser.parse_args()
    if (arguments.name == ONE_RECIPE) != bool(arguments.recipe):
        parser.error(f"{ONE_RECIPE}, and no other benchmark, needs --recipe NAME")
    every = [name for name in available() if name != ONE_RECIPE]
    names = every if arguments.name == "all" else [arguments.name]
    about = machine()
    path = results_file(about) if arguments.results else arguments.json
    figures = {}
    if arguments.results and path.exists():
        figures = json.loads(path.read_text(encoding="utf-8"))
    figures["machine"] = about
    for name in names:
        options = [arguments.recipe, *arguments.set] if name == ONE_RECIPE else []
        key = " ".join([name, *options[:1]])
        try:
            figures[key] = load(name).run(*options)
        except PhysgenError as error:
            parser.exit(1, f"{key}: {error}\n")
        print(json.dumps({key: figures[key]}, indent=1), flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
