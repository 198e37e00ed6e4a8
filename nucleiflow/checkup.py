"""The surroundings of one worker, tried out one by one -> what it found there. Runs on workers."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from nucleiflow import inference, provenance, records, source
from nucleiflow.box import Box
from nucleiflow.diagnosis import Answer, Finding
from nucleiflow.errors import SlideError, StoreError, explain
from nucleiflow.gpus import VARIABLE
from nucleiflow.place import Place

SIDE_PX = 256  # of the test tile, more where the network's stride wants it
SPECIMEN_PX = 64  # of a slide's middle that is read
SEEN_SECONDS = 10.0  # until a file that another machine wrote must be seen
Result = TypeVar("Result")


@dataclass(frozen=True)
class Visit:
    """What to try: `models` are path, digest and stride; `token` is what the driver wrote."""

    device: str
    threads: int
    models: tuple[tuple[str, str, int], ...]
    calls: int = 1
    slides: tuple[str, ...] = ()
    out: Place | None = None
    token: bytes = b""


def examine(visit: Visit) -> Finding:
    """Try everything; what does not work becomes a fault, and the next thing is tried."""
    faults: list[str] = []

    def attempt(check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except Exception as error:
            faults.append(explain(error))
            return None

    free = psutil.virtual_memory().available
    device = attempt(partial(inference.use, visit.device, visit.threads, visit.calls))
    answers = [attempt(partial(answer, *one)) for one in visit.models] if device else []
    for slide in visit.slides:
        attempt(partial(read, slide))
    if visit.out is not None:
        attempt(partial(write, visit.out, visit.token))
    return Finding(
        host=socket.gethostname(),
        process=os.getpid(),
        given=os.environ.get(VARIABLE),
        versions=provenance.versions(),
        free_bytes=free,
        device=device,
        answer=answers[0] if answers else None,
        disk_bytes=shutil.disk_usage(visit.out).free
        if isinstance(visit.out, Path) and visit.out.exists()
        else None,
        faults=tuple(faults),
    )


def specimen(side_px: int) -> NDArray[np.uint8]:
    """The test tile (side, side, 3) uint8: discs of several brightnesses on a faint pattern."""
    y, x = np.mgrid[:side_px, :side_px]
    disc = (y % 64 - 32) ** 2 + (x % 64 - 32) ** 2 < (8 + (y // 64 + x // 64) % 4 * 6) ** 2
    pixels = np.where(disc, 120 + (y // 64 * 37 + x // 64 * 53) % 120, (y * 7 + x * 13) % 40)
    return np.repeat(pixels[..., None], 3, axis=-1).astype(np.uint8)


def answer(path: str, sha256: str, stride_px: int) -> Answer:
    """The maps of the test tile; the second call is timed, the first compiles the network."""
    predict = inference.predictor(path, sha256)
    pixels = specimen(-(-SIDE_PX // stride_px) * stride_px)
    predict(pixels)
    began = time.monotonic()
    maps = predict(pixels)
    seconds = time.monotonic() - began
    return Answer(hashlib.sha256(maps.tobytes()).hexdigest(), seconds, maps)


def read(path: str) -> None:
    """Pixels from the middle of a slide. Raises SlideError."""
    with source.open_slide(path) as slide:
        height, width = slide.shape
        y, x = max(0, height - SPECIMEN_PX) // 2, max(0, width - SPECIMEN_PX) // 2
        box = Box(y, x, min(height, y + SPECIMEN_PX), min(width, x + SPECIMEN_PX))
        if slide.levels[0].read(box).size == 0:
            raise SlideError(f"{path}: gives no pixels: copy it again")


def probe(out: Place) -> Place:
    """What the driver writes into the output, for workers to see."""
    return out / ".doctor"


def write(out: Place, token: bytes) -> None:
    """See what the driver wrote, write a file and remove it. Raises StoreError."""
    until = time.monotonic() + SEEN_SECONDS
    while records.get(probe(out)) != token:
        if time.monotonic() > until:
            raise StoreError(
                f"output {out} is another place there, what this machine writes is not seen: "
                "use storage that all machines share"
            )
        time.sleep(0.2)
    mine = out / f".doctor-{socket.gethostname()}-{os.getpid()}"
    records.put(mine, token)
    records.remove(mine)
