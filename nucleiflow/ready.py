"""Models, and the device that a process is given -> a process that is ready for tiles."""

from __future__ import annotations

from collections.abc import Sequence

from nucleiflow import heap, inference
from nucleiflow.shape import Size


def prepare(models: Sequence[tuple[str, str]], device: str, size: Size) -> None:
    """Load the models, by path and digest, for the device; once in each worker, before its tiles.

    Raises ModelError and RunError, as `inference` does.
    """
    heap.keep()
    with heap.loading():
        inference.use(device, size.network_threads, size.network_calls)
        for path, sha256 in models:
            inference.predictor(path, sha256)
    heap.settle()
