"""Dask's scheduler, without the part of its memory that grows with every task ever submitted."""

from __future__ import annotations

from typing import Any

EVERY = 1000  # submissions


def extensions() -> dict[str, Any]:
    """Extensions for a scheduler that sees millions of tasks through one client.

    Dask's own spans keep a note of each submission for as long as the scheduler lives, and its
    cache of task names the last 100,000 of them, which are 60 MB.
    """
    from dask.utils import key_split
    from distributed.scheduler import DEFAULT_EXTENSIONS
    from distributed.spans import SpansSchedulerExtension

    class Spans(SpansSchedulerExtension):  # type: ignore[misc]
        submissions = 0

        def observe_tasks(self, tss: Any, code: Any, span_metadata: Any) -> Any:
            del code, span_metadata
            self.submissions += 1
            if self.submissions % EVERY == 0:
                key_split.cache_clear()
            return super().observe_tasks(tss, code=(), span_metadata={"collections": []})

    return {**DEFAULT_EXTENSIONS, "spans": Spans}
