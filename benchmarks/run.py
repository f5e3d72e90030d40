"""Run benchmarks: `python benchmarks/run.py NAME --json FILE`, or `all`.

Each file beside this one measures one thing against a peer in the same process and returns rows of
{name, value, unit, peer, peer_value, ratio}; ratios carry their spread over repeats.
"""

import argparse
import importlib.util
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent


def available():
    return sorted(p.stem.replace("_", "-") for p in HERE.glob("*.py") if p.stem != "run")


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
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    names = available() if arguments.name == "all" else [arguments.name]
    figures = {"machine": machine()}
    for name in names:
        figures[name] = load(name).run()
        print(json.dumps({name: figures[name]}, indent=1), flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
