"""How often tiles of a slide's file are decoded, with a copy and without. `make bench-decoding`.

A run of the whole pipeline through several worker processes; its network is a small one that is
given the margin of the shipped one, for only what is read counts here. The slide is tissue
everywhere, so at the least each of its tiles is decoded once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tifffile
from keras import layers

from nucleiflow import batch, cluster, demo, flow, model, progress
from nucleiflow.config import RunConfig

FILE_TILE_PX, FIELD_PX = 240, 2400  # of Aperio's files; the field is repeated


def write_slide(path: Path, size_px: int) -> int:
    """H&E-like JPEG tiles, levels of 1/4 and 1/16 -> how many tiles the finest level has."""
    dye = demo.make_slide(FIELD_PX)[0].astype(float)[..., None]
    field = np.array([235, 200, 225]) - dye / dye.max() * np.array([150, 160, 90])
    times = -(-size_px // FIELD_PX)
    about: dict[str, Any] = {
        "tile": (FILE_TILE_PX, FILE_TILE_PX),
        "photometric": "rgb",
        "compression": "jpeg",
        "metadata": None,
        "resolution": (40_000, 40_000),
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for step in (1, 4, 16):
            part = field.astype(np.uint8)[::step, ::step]
            level = np.tile(part, (times, times, 1))[: size_px // step, : size_px // step]
            writer.write(level, **about, subfiletype=int(step > 1))
    return math.ceil(size_px / FILE_TILE_PX) ** 2


def write_network(path: Path) -> Path:
    """Nuclei are where three pixels squared are bright, on the mean."""
    pixels = keras.Input((None, None, 3))
    head = layers.Conv2D(2, 3, padding="same", activation="sigmoid")
    built = keras.Model(pixels, head(pixels))
    steps = np.array([0.1, 0.05])
    head.set_weights([np.ones((3, 3, 3, 2)) * steps / 27, -steps * 120])
    built.save(path)
    return path


def decoded() -> int:
    """Tiles that this process has decoded."""
    from nucleiflow import kept

    return kept.TILES.decoded


@contextlib.contextmanager
def counted(found: Counter[str]) -> Iterator[None]:
    """Counts, meanwhile, the tiles that all workers decode in each stage."""
    opened, steps_of = cluster.open, flow.flow
    clients: list[Any] = []

    @contextlib.contextmanager
    def remembered(*args: Any, **more: Any) -> Iterator[Any]:
        with opened(*args, **more) as client:
            clients.append(client)
            yield client

    def watched(*args: Any) -> flow.Flow:
        steps, before = steps_of(*args), 0
        try:
            while True:
                stage = next(steps)
                yield stage
                now = sum(clients[0].run(decoded).values())
                found[stage.name] += now - before
                before = now
        except StopIteration as end:
            return dict(end.value)

    with mock.patch.object(cluster, "open", remembered), mock.patch.object(flow, "flow", watched):
        yield


def run(slide: Path, out: Path, network: Path, image: Any, workers: int) -> Counter[str]:
    """Decoded tiles by stage."""
    config = RunConfig(
        model=network, halo_px=model.load().reach.halo_px, image=image, restart=True, level=0
    )
    found: Counter[str] = Counter()
    with counted(found):
        outcome = batch.run(
            batch.slides([str(slide)], config),
            out,
            cluster=batch.local(workers),
            progress=progress.Quiet(),
        )
    assert outcome.exit_code == 0, outcome.slides
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the slide and results: 1 GB")
    parser.add_argument("--size-px", type=int, default=12_288)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    slide = given.folder / "slide.tif"
    least = write_slide(slide, given.size_px)
    network = write_network(given.folder / "network.keras")
    print(f"{given.size_px} px squared, {least:,} tiles of {FILE_TILE_PX} px in the file\n")
    print("| image | workers | in the stage that reads most | in all | tiles decoded, by stage |")
    print("|---|---|---|---|---|")
    for image in ("copy", "none"):
        for workers in given.workers:
            found = run(slide, given.folder / image, network, image, workers)
            stages = ", ".join(f"{name} {count:,}" for name, count in found.items() if count)
            most, whole = max(found.values()) / least, found.total() / least
            print(f"| {image} | {workers} | {most:.2f} x | {whole:.2f} x | {stages} |", flush=True)


if __name__ == "__main__":
    main()
