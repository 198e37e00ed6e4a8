"""Sampled pixels of a slide -> its stain, the channels the network sees, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import counts
from nucleiflow.errors import ConfigError

STAINS = ("fluorescence", "brightfield", "h&e")
NUCLEAR_DYES = ("dapi", "hoechst", "draq5", "sytox", "propidium", "nuclei", "nuclear", "dna")
COLOURED = 0.04  # mean chroma, as a part of full scale, above which a bright RGB image is stained
BLACK, DARK = 0.06, 0.2  # brightness, as a part of full scale: surely, perhaps fluorescence
FAINT = 0.02  # range, as a part of full scale, below which a histogram tells nothing


@dataclass(frozen=True)
class Stain:
    """`kind` is one of STAINS, `channels` the slide's channels shown to the network."""

    kind: str
    channels: tuple[int, ...]
    reason: str


def decide(
    sample: NDArray[Any],
    names: Sequence[str],
    *,
    rgb: bool,
    stain: str | None = None,
    channel: str | None = None,
) -> Stain:
    """Sample (n, c) of pixels -> the stain; `stain` and `channel` are the user's own choice.

    Raises ConfigError for an unknown stain or channel.
    """
    check(names, stain=stain, channel=channel)
    if channel is not None:
        return _one_channel(sample, _channel_index(names, channel), stain, "--channel chose it")
    if rgb:
        return _colour(sample, stain)
    if sample.shape[1] == 1:
        return _one_channel(sample, 0, stain, "the only channel")
    for index, name in enumerate(names):
        if any(dye in name.lower() for dye in NUCLEAR_DYES):
            return _of_several(index, stain, f"named {name!r}")
    return _of_several(0, stain, "the first; choose another with --channel")


def check(names: Sequence[str], *, stain: str | None, channel: str | None) -> None:
    """Raises ConfigError for a stain or channel that no slide with these channels can have."""
    if stain is not None and stain not in STAINS:
        raise ConfigError(f"stain is {stain!r}: choose one of {', '.join(STAINS)}")
    if channel is not None:
        _channel_index(names, channel)


def _channel_index(names: Sequence[str], wanted: str) -> int:
    lowered = [name.lower() for name in names]
    if wanted.lower() in lowered:
        return lowered.index(wanted.lower())
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    listed = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    raise ConfigError(f"channel {wanted!r} is not in this slide: it has {listed}")


def _of_several(index: int, stain: str | None, why: str) -> Stain:
    """Several channels are fluorescence, unless the user says otherwise."""
    kind = stain or "fluorescence"
    return Stain(kind, (index,), f"{kind}: channel {index} ({why})")


def _shares(sample: NDArray[Any]) -> NDArray[np.float64]:
    """Each value that a pixel may have, as a part of full scale."""
    full = np.iinfo(sample.dtype).max
    return np.arange(full + 1, dtype=np.float64) / full


def _percentiles(pixels: NDArray[Any], *percents: float) -> list[float]:
    """Percentiles of pixels (n,), as parts of full scale."""
    return counts.percentiles(counts.of(pixels), _shares(pixels), percents)


def _one_channel(sample: NDArray[Any], index: int, stain: str | None, why: str) -> Stain:
    if stain is not None:
        return Stain(stain, (index,), f"{stain}, as told: channel {index} ({why})")
    if _bright_background(sample[:, index]):
        kind, look = "brightfield", "dark on bright"
    else:
        kind, look = "fluorescence", "bright on dark"
    return Stain(kind, (index,), f"{kind}: channel {index} ({why}), {look}")


def _colour(sample: NDArray[Any], stain: str | None) -> Stain:
    """RGB: stained tissue, a grey picture saved as RGB, or fluorescence shown in colour."""
    red, green, blue = (np.ascontiguousarray(sample[:, k]) for k in range(3))
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    shares = _shares(sample)
    chroma = float((shares[most] - shares[least]).mean())
    if chroma < 1e-6:
        return _one_channel(sample, 0, stain, "red, green and blue are the same")
    ranges = np.array([_percentiles(one, 1, 50, 99) for one in (red, green, blue)])
    if stain == "fluorescence" or (stain is None and _dark_background(most, ranges)):
        index = int(np.argmax(ranges[:, 2] - ranges[:, 1]))
        why = f"{['red', 'green', 'blue'][index]} holds the signal"
        return Stain("fluorescence", (index,), f"fluorescence: channel {index} ({why})")
    if stain is None:
        stain = "h&e" if chroma > COLOURED else "brightfield"
    return Stain(stain, (0, 1, 2), f"{stain}: colour on bright, mean chroma {chroma:.3f}")


def _dark_background(most: NDArray[Any], ranges: NDArray[np.float64]) -> bool:
    """Whether colour is light on black: black outright, or dark and one channel lit. `most` (n,) is
    that of the three channels, `ranges` (3, 3) their 1st, 50th and 99th percentiles.
    """
    background = _percentiles(most, 10)[0]
    signal = np.sort(ranges[:, 2] - ranges[:, 0])
    return background < BLACK or (background < DARK and bool(signal[2] > 2 * signal[1]))


def _bright_background(seen: NDArray[Any]) -> bool:
    """Whether the tail of the histogram points to the dark side (nuclei are the rarer pixels)."""
    low, middle, high = _percentiles(seen, 1, 50, 99)
    return bool(high - middle < middle - low) and bool(high - low > FAINT)
