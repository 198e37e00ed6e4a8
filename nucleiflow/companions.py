"""A slide's file -> the other files that it consists of, and that are no slides of their own."""

from __future__ import annotations

from pathlib import Path

from nucleiflow import dicom, formats

MAX_INDEX_BYTES = 1 << 20
INDEXES = (".vms", ".vmu")


def of(path: Path) -> list[Path]:
    """The other files of a slide that has several, sorted; none for most. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if formats.is_mirax(path, head):
        return sorted(one for one in path.with_suffix("").rglob("*") if one.is_file())
    if dicom.is_dicom(head):
        return sorted(one for one in path.parent.glob(f"*{path.suffix}") if one.is_file())
    return sorted(named(path))


def named(path: Path) -> set[Path]:
    """The files beside it that a Hamamatsu index (VMS, VMU) names. Raises OSError."""
    if path.suffix.lower() not in INDEXES or path.stat().st_size > MAX_INDEX_BYTES:
        return set()
    lines = path.read_text(errors="replace").splitlines()
    names = {line.partition("=")[2].strip() for line in lines if "=" in line}
    return {path.parent / name for name in names if name and (path.parent / name).is_file()}
