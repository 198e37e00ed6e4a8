"""One slide through all stages: what is done, what is next, and the final word."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nucleiflow import __version__, look, ngff, plan, records, source, stain, store, tasks
from nucleiflow.config import RunConfig
from nucleiflow.errors import ConfigError, NucleiflowError, StoreError
from nucleiflow.job import Job
from nucleiflow.merge import merge
from nucleiflow.model import Model
from nucleiflow.resolution import Resolution, Wish, choose
from nucleiflow.seeds import Record
from nucleiflow.slide import Slide

MOST_TOLD = 4  # differences between two runs; more are not read
LAYOUT = 1  # of the files of a run; a run of another layout is not continued


@dataclass(frozen=True)
class Stage:
    """Tiles that may run in any order, at once; the next stage begins when all are done.

    `total` counts the tiles of the stage, those of an earlier attempt included.
    """

    name: str
    task: Callable[[int], None]
    tiles: Sequence[int]
    total: int
    tile_megapixels: float


Flow = Generator[Stage, None, dict[str, Any]]


def prepare(path: str, name: str, out: Path, config: RunConfig, model: Model) -> tuple[Job, Slide]:
    """Look at a slide and lay out its job; the slide is open. Raises SlideError or ConfigError."""
    slide = source.open_slide(path)
    try:
        return _job(slide, name, out / name, config, model), slide
    except NucleiflowError:
        slide.close()
        raise


def _job(slide: Slide, name: str, folder: Path, config: RunConfig, model: Model) -> Job:
    chosen = _resolution(slide, config, model)
    stain.check(slide.channels, stain=config.stain, channel=config.channel)
    height, width = chosen.working_px
    reach = plan.check(config.tile_px or plan.DEFAULT_TILE_PX, config.halo_px, model.reach)
    return Job(
        slide=slide.path,
        resolution=chosen,
        name=name,
        folder=folder,
        grid=plan.Grid(height, width, config.tile_px or _tile_px(height, width, reach), reach),
        model=model,
        channels=slide.channels,
        dtype=slide.dtype.newbyteorder("=").name,
        rgb=slide.rgb,
    )


def _resolution(slide: Slide, config: RunConfig, model: Model) -> Resolution:
    wish = Wish(config.level, config.working_mpp, model.mpp_range)
    shapes = [level.shape for level in slide.levels]
    try:
        return choose(shapes, slide.downsamples, config.mpp or slide.mpp, wish)
    except ConfigError as error:
        raise ConfigError(f"{slide.path}: {error}") from error


def _tile_px(height: int, width: int, reach: Any) -> int:
    """The default tile, or the step of the ladder that holds a small slide whole."""
    steps = plan.ladder(plan.DEFAULT_TILE_PX, reach.stride_px)
    longest = min(max(height, width), plan.DEFAULT_TILE_PX)
    return next(step for step in steps if step >= longest and step % 32 == 0)


def fingerprint(job: Job, config: RunConfig) -> dict[str, Any]:
    """All that decides a slide's labels and the layout of its files."""
    model = job.model
    return {
        "input": source.fingerprint(job.slide),
        "model": model.sha256,
        "options": {
            **config.model_dump(include={"stain", "channel", "tissue_only"}),
            "level": job.resolution.level,
            "working_px": list(job.resolution.working_px),
            "mpp": job.mpp,
            "tile_px": job.grid.tile_px,
        },
        "settings": model.settings.as_json(),
        "code": {"version": __version__, "layout": LAYOUT},
    }


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """What differs between two fingerprints, in words.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b was 1, is 2']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            line
            for key in keys
            for line in differences(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if one == other else [f"{where} was {_short(one)}, is {_short(other)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "…"


def finished(job: Job, mark: dict[str, Any]) -> dict[str, Any] | None:
    """The final word of an earlier run of the same job, if there is one.

    Raises StoreError, saying what differs, if the folder holds another run.
    """
    word = records.get_json(job.run_json)
    earlier = word or records.get_json(job.work / "fingerprint.json")
    if earlier is None:
        return None
    differs = differences(earlier.get("fingerprint"), mark)
    if differs:
        raise StoreError(
            f"{job.folder} was made otherwise: choose another --out, or begin anew with --restart "
            f"({'; '.join(differs[:MOST_TOLD])}{'; …' if len(differs) > MOST_TOLD else ''})"
        )
    return word if word and (job.labels / "zarr.json").exists() else None


def clear(job: Job) -> None:
    """Remove what a run of this slide made, the final word first."""
    job.run_json.unlink(missing_ok=True)
    (job.work / "fingerprint.json").unlink(missing_ok=True)
    store.remove(job.store)
    store.remove(job.work)


def flow(job: Job, config: RunConfig) -> Flow:
    """The stages of a slide, one after the other; returns the content of its `run.json`."""
    mark = fingerprint(job, config)
    if config.restart:
        clear(job)
    word = finished(job, mark)
    if word is not None:
        store.remove(job.work)
        return {**word, "again": True}
    if not (job.work / "fingerprint.json").exists():
        clear(job)
        _create(job)
        records.put_json(job.work / "fingerprint.json", {"fingerprint": mark})
    seconds: dict[str, float] = {}
    yield from _timed(_image(job), seconds)
    job = look.decide(
        job, kind=config.stain, channel=config.channel, tissue_only=config.tissue_only
    )
    _publish_image(job)
    tissue_tiles = look.tissue_tiles(job)
    segment = _stage(job, "segment", partial(tasks.segment, job), tissue_tiles, "segment")
    yield from _timed([segment], seconds)
    began = time.monotonic()
    count = _merge(job)
    seconds["merge"] = time.monotonic() - began
    yield from _timed([_label(job)], seconds)
    yield from _timed(_pyramid(job, "pyramid", "labels", tasks.shrink_labels), seconds)
    return _finish(job, mark, count, len(tissue_tiles), seconds)


def _timed(stages: Iterable[Stage], seconds: dict[str, float]) -> Generator[Stage, None, None]:
    for stage in stages:
        began = time.monotonic()
        yield stage
        seconds[stage.name] = seconds.get(stage.name, 0.0) + time.monotonic() - began


def _stage(
    job: Job, name: str, task: Callable[[int], None], tiles: Sequence[int], record: str
) -> Stage:
    done = records.done(job.records(record))
    side = job.grid.tile_px
    megapixels = min(side, job.grid.height) * min(side, job.grid.width) / 1e6
    return Stage(name, task, [tile for tile in tiles if tile not in done], len(tiles), megapixels)


def _image(job: Job) -> Iterable[Stage]:
    tiles = range(len(job.grid))
    yield _stage(job, "image", partial(tasks.copy_image, job), tiles, "image-0")
    yield from _pyramid(job, "image", "image", tasks.shrink_image)


def _pyramid(job: Job, name: str, kind: str, shrink: Callable[..., None]) -> Iterable[Stage]:
    for level in range(1, len(job.levels)):
        tiles = range(len(job.level_grid(level)))
        yield _stage(job, name, partial(shrink, job, level), tiles, f"{kind}-{level}")
        if len(tiles) == 1:
            return


def _create(job: Job) -> None:
    """All arrays of the run, empty; no metadata yet that would let them look finished."""
    side = job.grid.tile_px
    for number, shape in enumerate(job.levels):
        level = (len(job.channels), *shape)
        store.create_array(job.store / str(number), level, job.dtype, tile_px=side, axes="cyx")
        store.create_array(job.labels / str(number), shape, "uint32", tile_px=side, axes="yx")
    for path, dtype in ((job.foreground, "uint8"), (job.seeds, "uint32")):
        store.create_array(path, job.levels[0], dtype, tile_px=side, axes="yx")


def _publish_image(job: Job) -> None:
    norm = job.look.norm if job.look else None
    window = (norm.low, norm.high) if norm else (0.0, 255.0)
    top = 2 ** (8 * (1 if job.dtype == "uint8" else 2)) - 1
    windows = [(0.0, 255.0) if job.rgb else window] * len(job.channels)
    shown = ngff.omero(job.channels, rgb=job.rgb, windows=windows, top=top)
    store.set_ome(job.store, ngff.image(job.name, len(job.levels), job.resolution.pixel_um, shown))


def _merge(job: Job) -> int:
    """Write each tile's `old -> new`; returns the number of nuclei."""
    marker = job.work / "merge.json"
    known = records.get_json(marker)
    if known is not None:
        return int(known["nuclei"])

    def read(index: int) -> Record | None:
        found = records.get_arrays(job.record("segment", index))
        return None if found is None else Record(**found)

    count = 0
    for index, new in merge(job.grid, read, min_area_px=job.postprocessing.min_seed_area_px):
        records.put_arrays(job.record("merge", index), {"new": new})
        count = max(count, int(new.max()))
    records.put_json(marker, {"nuclei": count})
    return count


def _label(job: Job) -> Stage:
    """Tiles that hold seeds, and those that a neighbour's nuclei may grow into."""
    seeded = records.done(job.records("merge"))
    reach = job.postprocessing.grow_px
    near = {other for tile in seeded for other in job.grid.around(tile, reach)}
    return _stage(job, "label", partial(tasks.label, job), sorted(near), "label")


def _finish(
    job: Job, mark: dict[str, Any], count: int, tissue_tiles: int, seconds: dict[str, float]
) -> dict[str, Any]:
    """Publish the labels, write the final word, and only then drop the scratch."""
    levels = len(job.levels)
    store.set_ome(job.labels, ngff.labels("nuclei", levels, job.resolution.pixel_um))
    store.set_ome(job.labels.parent, ngff.labels_group(["nuclei"]))
    chosen = job.look
    word = {
        "status": "done",
        "slide": job.slide,
        "labels": str(job.labels.relative_to(job.folder)),
        "nuclei": count,
        "height": job.grid.height,
        "width": job.grid.width,
        "mpp": job.mpp,
        "resolution": job.resolution.as_json(),
        "tiles": len(job.grid),
        "tiles_with_tissue": tissue_tiles,
        "stain": chosen.stain if chosen else None,
        "stain_reason": chosen.reason if chosen else None,
        "normalisation": chosen.norm.as_json() if chosen else None,
        "postprocessing": job.postprocessing.as_json(),
        "halo_px": job.grid.reach.halo_px,
        "holes": [],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "fingerprint": mark,
    }
    records.put_json(job.run_json, word)
    store.remove(job.work)
    return word
