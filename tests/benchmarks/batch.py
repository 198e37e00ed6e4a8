"""A simulated batch: 2,000 slides and 1,000,000 tiles whose work is nothing, on a real cluster.

Prints how many tiles a second the driver and the scheduler keep up with, beside what 64 GPUs would
finish, and the driver's memory as the batch goes on.
"""

import argparse
import time
from functools import partial

import psutil

from nucleiflow import cluster, pool
from nucleiflow.config import Cluster, Failure
from nucleiflow.snapshot import SlideState
from nucleiflow.stream import Stage, Stream

STAGES = {"image": "other", "segment": "network", "label": "other"}  # a task for each tile in each
GPUS, GPU_MEGAPIXELS_PER_SECOND, TILE_MEGAPIXELS = 64, 40, 2048 * 2048 / 1e6
LINES = 20


def nothing(tile):
    """The work on a tile."""


def slide(tiles):
    """The stages of a slide: those with a task for each tile, and the merge between them."""
    for name, lane in STAGES.items():
        yield Stage(name, nothing, range(tiles), tiles, TILE_MEGAPIXELS, lane=lane)
        yield Stage("merge", nothing, range(1), 1, 0.0)
    return {"nuclei": 0, "holes": []}


class Watch:
    """Prints a line now and then."""

    def __init__(self, slides):
        self._slides, self._ended, self._began = slides, 0, time.monotonic()
        self._process = psutil.Process()
        self.memory = []

    def say(self, text):
        print(text)

    def ended(self, number, word):
        assert not isinstance(word, Exception), word
        self._ended += 1

    def tick(self, now):
        if self._ended * LINES < len(self.memory) * self._slides:
            return
        memory = self._process.memory_info().rss / 1e6
        self.memory.append(memory)
        spent = time.monotonic() - self._began
        rate = now.tiles_done / max(spent, 1e-6)
        print(f"{spent:>8.0f} {self._ended:>8,} {now.tiles_done:>12,} {rate:>8,.0f} {memory:>8.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--tiles", type=int, default=500, help="of each slide")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    states = [SlideState(f"slide{number}", "") for number in range(chosen.slides)]
    watch = Watch(chosen.slides)
    with cluster.open(
        Cluster(workers=chosen.workers, threads=4), nothing_to_prepare, demand=lambda: 1
    ) as client:
        print("       s   slides        tasks  tasks/s  driver MB")
        began = time.monotonic()
        workers = pool.Dask(lambda: (client, partial(cluster.workers, client)))
        stream = Stream(workers, Failure(), watch)
        stream.run(states, iter([lambda: slide(chosen.tiles)] * chosen.slides))
        spent = time.monotonic() - began
    tiles, need = chosen.slides * chosen.tiles, GPUS * GPU_MEGAPIXELS_PER_SECOND / TILE_MEGAPIXELS
    print(f"{tiles:,} tiles of {chosen.slides:,} slides, {len(STAGES)} tasks each: {spent:,.0f} s")
    print(f"tiles per second             {tiles / spent:>8,.0f}")
    print(f"{GPUS} GPUs of {GPU_MEGAPIXELS_PER_SECOND} MP/s would finish {need:>8,.0f}")
    print(f"ratio                        {tiles / spent / need:>8.1f}")
    half = watch.memory[len(watch.memory) // 10 :]
    print(f"driver memory after a tenth  {half[0]:>8,.0f} MB, at the end {half[-1]:,.0f} MB")


def nothing_to_prepare():
    """The network is not part of it."""


if __name__ == "__main__":
    main()
