"""nucleiflow: every nucleus of a whole-slide image, exactly labelled, at any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nucleiflow.api import Result, load, segment, segment_all
    from nucleiflow.errors import NucleiflowError

__version__ = "0.1.0"
__all__ = ["NucleiflowError", "Result", "__version__", "load", "segment", "segment_all"]


def __getattr__(name: str) -> Any:
    """Public names are loaded when they are used: the command line starts light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nucleiflow import api, errors

    return getattr(errors if name == "NucleiflowError" else api, name)
