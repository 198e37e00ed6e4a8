"""Dask's scheduler, without the part of its memory that grows with every task ever submitted."""

from __future__ import annotations

from typing import Any


def extensions() -> dict[str, Any]:
    """Extensions for a scheduler that sees millions of tasks through one client.

    Dask's own spans keep a note of each submission for as long as the scheduler lives.
    """
    from distributed.scheduler import DEFAULT_EXTENSIONS
    from distributed.spans import SpansSchedulerExtension

    class Spans(SpansSchedulerExtension):  # type: ignore[misc]
        def observe_tasks(self, tss: Any, code: Any, span_metadata: Any) -> Any:
            del code, span_metadata
            return super().observe_tasks(tss, code=(), span_metadata={"collections": []})

    return {**DEFAULT_EXTENSIONS, "spans": Spans}
