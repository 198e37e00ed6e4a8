"""Lines across the labels of a tile, compiled: what nuclei do at each; see `audit`.

Import it inside functions: numba takes a moment.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled


@compiled
def kind(
    labels: NDArray[np.int32],
    start: int,
    steps: tuple[int, int],
    length: int,
    lines: NDArray[np.int64],
    sampled: tuple[int, int, int],
    names: int,
) -> NDArray[np.int64]:
    """Labels as one row -> the sums of `audit.KIND` over lines, each `length` px.

    Line 0 begins at `start`; a px along a line is `steps[0]` on, the next line is `steps[1]` on.
    `sampled` is how far beyond a line sizes are looked at, in which of the rows, and the line that
    must not be reached. There are labels up to `names`.
    """
    along, across = steps
    found = np.zeros(7, np.int64)
    one, other = np.zeros(names + 1, np.int64), np.zeros(names + 1, np.int64)
    size, faced = np.zeros(names + 1, np.int64), np.zeros(names + 1, np.bool_)
    seen = np.empty(2 * length + 1, np.int64)
    for line in lines:
        at, amount = start + line * across, 0
        for k in range(length):
            before, after = labels[at - across + k * along], labels[at + k * along]
            seen[amount] = before
            amount += before != 0 and one[before] + other[before] == 0
            one[before] += before != 0
            seen[amount] = after
            amount += after != 0 and one[after] + other[after] == 0
            other[after] += after != 0
        deep = line + sampled[0] <= sampled[2]
        if deep:
            for row in range(0, sampled[0], sampled[1]):
                for k in range(length):
                    size[labels[at + row * across + k * along]] += 1
        for k in range(length):
            before, after = labels[at - across + k * along], labels[at + k * along]
            if before != 0 and after != 0 and other[before] == 0 and one[after] == 0:
                faced[before] = True
        for k in range(amount):
            label = seen[k]
            found[0] += 1
            found[1] += one[label] == 0 or other[label] == 0
            found[2] += one[label] > 0
            found[3] += faced[label]
            if deep and one[label] > 0 and other[label] > 0:
                found[4] += 1
                found[5] += size[label]
                found[6] += size[label] ** 2
            one[label] = other[label] = 0
            faced[label] = False
        if deep:
            size[:] = 0
    return found
