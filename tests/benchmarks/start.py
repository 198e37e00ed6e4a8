"""How long the command takes for a small image, beside TensorFlow's own import: `make bench-start`.

Each is a process of its own, in turn, so that what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rounds import spread

from nucleiflow import demo, showcase

IMPORT = "import"


def commands(slide: Path, out: Path) -> dict[str, list[str]]:
    bad = out / "bad.tif"
    bad.write_bytes(b"II*\0")
    command = [sys.executable, "-m", "nucleiflow", "run", "--quiet", "--out"]
    return {
        IMPORT: [sys.executable, "-c", "import tensorflow"],
        "run": [*command, str(out / "run"), str(slide), "--restart"],
        "run_workers_0": [*command, str(out / "alone"), str(slide), "--restart", "--workers", "0"],
        "run_again": [*command, str(out / "run"), str(slide)],
        "bad": [*command, str(out / "bad"), str(bad)],
        "help": [*command[:4], "--help"],
    }


def seconds(name: str, command: list[str]) -> float:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept)
    if done.returncode != (2 if name == "bad" else 0):
        raise SystemExit(f"{name}: exit {done.returncode}: {done.stderr}")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the slide and results")
    parser.add_argument("--size-px", type=int, default=720)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    slide = given.folder / f"{given.size_px}.ome.tif"
    showcase.write_slide(slide, demo.make_slide(given.size_px, seam_px=2048)[0])
    asked = commands(slide, given.folder)
    for one in asked.items():  # what is compiled is kept
        seconds(*one)
    rounds = [{one[0]: seconds(*one) for one in asked.items()} for _ in range(given.rounds)]
    result = {
        "benchmark": "start",
        "cores": os.cpu_count(),
        "megapixels": given.size_px**2 / 1e6,
        "seconds": {name: spread([one[name] for one in rounds]) for name in asked},
        "over_import": {
            name: spread([one[name] / one[IMPORT] for one in rounds]) for name in asked
        },
    }
    for name in asked:
        one, ratio = result["seconds"][name], result["over_import"][name]
        print(
            f"{name:14} {one['median']:5.1f} s ({one['least']:.1f} to {one['most']:.1f}), "
            f"{ratio['median']:.2f} x ({ratio['least']:.2f} to {ratio['most']:.2f})"
        )
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
