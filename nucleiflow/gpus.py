"""GPUs of this machine -> names that CUDA_VISIBLE_DEVICES takes, one per worker. NVML's door."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from nucleiflow.errors import ConfigError

VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """`name` goes into CUDA_VISIBLE_DEVICES: a number as in nvidia-smi, or a MIG slice's UUID."""

    name: str
    uuid: str
    model: str

    def is_called(self, name: str) -> bool:
        """Whether a name means this GPU; UUIDs may be cut short, as CUDA allows."""
        return name == self.name or (not name.isdigit() and self.uuid.startswith(name))


def found() -> tuple[Gpu, ...]:
    """All GPUs of this machine. Raises ConfigError, saying why, where none can be seen."""
    try:
        import pynvml
    except ImportError:
        raise ConfigError(
            "GPUs cannot be looked for: pip install 'nucleiflow[gpu]', or name them in cluster.gpus"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ConfigError(
            f"no GPU here, NVML says: {error}. Install NVIDIA's driver, or use the cluster kind "
            "local, which works on the CPU"
        ) from None
    try:
        return tuple(_gpus(pynvml))
    finally:
        pynvml.nvmlShutdown()


def _gpus(nvml: Any) -> Iterator[Gpu]:
    for number in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(number)
        model = nvml.nvmlDeviceGetName(device)
        slices = list(_slices(nvml, device))
        if slices:
            yield from (Gpu(uuid, uuid, f"{model} (a slice)") for uuid in slices)
        else:
            yield Gpu(str(number), nvml.nvmlDeviceGetUUID(device), model)


def _slices(nvml: Any, device: Any) -> Iterator[str]:
    """UUIDs of the MIG slices of a GPU; none where it is not cut up."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(device)
        if current != nvml.NVML_DEVICE_MIG_ENABLE:
            return
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(device)
    except nvml.NVMLError_NotSupported:
        return
    for index in range(most):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
        except nvml.NVMLError_NotFound:
            continue
        yield nvml.nvmlDeviceGetUUID(part)


def choose(
    asked: Sequence[int] | None, there: Sequence[Gpu], *, visible: str | None
) -> tuple[str, ...]:
    """Names of the GPUs to use, one per worker; `visible` is an outer CUDA_VISIBLE_DEVICES.

    Raises ConfigError, saying what was seen, where a GPU that was asked for is not there.

    >>> choose(None, [Gpu("0", "GPU-a", "A"), Gpu("1", "GPU-b", "B")], visible="1")
    ('1',)
    """
    allowed = _allowed(there, visible)
    seen = ", ".join(f"{gpu.name} ({gpu.model})" for gpu in there) or "none"
    limit = "" if visible is None else f"; {VARIABLE} allows {visible or 'none'}"
    if asked is None:
        if not allowed:
            raise ConfigError(
                f"no GPU to use (there: {seen}{limit}): the cluster kind local works on the CPU"
            )
        return allowed
    names = []
    for number in asked:
        name = next((one for one in allowed if _same(one, str(number), there)), None)
        if name is None:
            raise ConfigError(f"GPU {number} was asked for and is not there (there: {seen}{limit})")
        names.append(name)
    return tuple(names)


def _allowed(there: Sequence[Gpu], visible: str | None) -> tuple[str, ...]:
    """What an outer CUDA_VISIBLE_DEVICES leaves, in its order; CUDA stops at the first unknown."""
    if visible is None:
        return tuple(gpu.name for gpu in there)
    names = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        if not any(gpu.is_called(name) for gpu in there):
            break
        names.append(name)
    return tuple(names)


def _same(one: str, other: str, there: Sequence[Gpu]) -> bool:
    return any(gpu.is_called(one) and gpu.is_called(other) for gpu in there)


def chosen(asked: Sequence[int] | None) -> tuple[str, ...]:
    """`choose` among this machine's GPUs.

    Without NVML's Python package those that are named are taken as named: workers look themselves.
    """
    if asked is not None and find_spec("pynvml") is None:
        there = tuple(Gpu(str(number), str(number), "not looked at") for number in asked)
    else:
        there = found()
    return choose(asked, there, visible=os.environ.get(VARIABLE))
