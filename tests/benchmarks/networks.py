"""Speed of the shipped network beside the classic one of 2018, in one run: `make bench-networks`.

Both are called as a run calls them, in turn, on the same windows; the ratio is what counts.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from nucleiflow import inference, model, unet

SIDE_PX, ROUNDS = 1024, 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        classic = Path(folder) / "classic.keras"
        unet.build(unet.Design()).save(classic)
        networks = {"classic 16-256": model.load(classic), "shipped": model.load()}
        window = np.random.default_rng(0).integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)
        predict = {
            name: inference.predictor(one.path, one.sha256) for name, one in networks.items()
        }
        speeds: dict[str, list[float]] = {name: [] for name in networks}
        for turn in range(ROUNDS + 1):
            for name in networks:
                began = time.perf_counter()
                predict[name](window)
                if turn:  # the first call compiles
                    speeds[name].append(window.size / 3e6 / (time.perf_counter() - began))
    base = statistics.median(speeds["classic 16-256"])
    for name, one in networks.items():
        middle = statistics.median(speeds[name])
        print(
            f"{name:16} halo {one.reach.halo_px:3} px  {middle:5.2f} MP/s "
            f"({min(speeds[name]):.2f} to {max(speeds[name]):.2f})  {middle / base:.2f} x classic"
        )


if __name__ == "__main__":
    main()
