"""Arrays as compiled loops take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def plain(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The array, C-contiguous and writeable, of this dtype: each loop is compiled for one kind.

    It is copied only where it must be.
    """
    return np.require(array, dtype, ["C", "A", "W"])
