"""Models, and the device that a process is given -> a process that is ready for tiles."""

from __future__ import annotations

from collections.abc import Sequence

from nucleiflow import heap, inference


def prepare(models: Sequence[tuple[str, str]], device: str, threads: int, calls: int) -> None:
    """Load the models, by path and digest, once in each worker, before its tiles.

    `device`, `threads` and `calls` are as `inference.use` takes them: plain words, so that a worker
    need not load how clusters are chosen. Raises ModelError and RunError, as `inference` does.
    """
    heap.keep()
    with heap.loading():
        inference.use(device, threads, calls)
        for path, sha256 in models:
            inference.predictor(path, sha256)
    heap.settle()
