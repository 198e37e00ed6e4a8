"""One slide through all stages: what is done, what is next, and the final word."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nucleiflow import (
    __version__,
    export,
    holes,
    look,
    ngff,
    pixels,
    plan,
    provenance,
    records,
    regions,
    report,
    results,
    runfile,
    source,
    stain,
    store,
    tasks,
)
from nucleiflow.config import Exports, RunConfig, Wanted
from nucleiflow.errors import ConfigError, NucleiflowError, RunError, SlideError, StoreError
from nucleiflow.job import Job
from nucleiflow.model import Model
from nucleiflow.place import Place
from nucleiflow.resolution import Resolution, Wish, choose
from nucleiflow.slide import Slide
from nucleiflow.stream import Flow, Stage

MOST_TOLD = 4  # differences between two runs; more are not read
LAYOUT = 6  # of the files of a run; a run of another layout is not continued
Begun = Callable[[Job, Sequence[str]], None]


def prepare(path: str, name: str, out: Place, config: RunConfig, model: Model) -> tuple[Job, Slide]:
    """Look at a slide and lay out its job; the slide is open. Raises SlideError or ConfigError."""
    slide = source.open_slide(path, series=config.series)
    try:
        return _job(slide, name, out / name, config, model), slide
    except NucleiflowError:
        slide.close()
        raise


def _job(slide: Slide, name: str, folder: Place, config: RunConfig, model: Model) -> Job:
    chosen = _resolution(slide, config, model)
    stain.check(slide.channels, stain=config.stain, channel=config.channel)
    height, width = chosen.working_px
    reach = plan.check(config.tile_px or plan.DEFAULT_TILE_PX, config.halo_px, model.reach)
    job = Job(
        slide=slide.path,
        resolution=chosen,
        name=name,
        folder=folder,
        grid=plan.Grid(height, width, config.tile_px or _tile_px(height, width, reach), reach),
        model=model,
        channels=slide.channels,
        dtype=slide.dtype.newbyteorder("=").name,
        rgb=slide.rgb,
        series=config.series,
        direct=config.image == "none",
    )
    if config.region:
        found = regions.read(config.region, chosen.slide_px)
        job = replace(job, region=found.digest)
    number = pixels.low_level(job)
    own = number > 0 and any(pixels.of_own(job, slide, number))
    return replace(job, apart=job.partial or own)


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
            **({} if job.series is None else {"series": job.series}),
            **({"image": "none"} if job.direct else {}),
            **({} if job.region is None else {"region": job.region}),
        },
        "settings": model.settings.as_json(),
        "code": {"version": __version__, "layout": LAYOUT},
    }


def finished(job: Job, mark: dict[str, Any]) -> dict[str, Any] | None:
    """The final word of an earlier run of the same job, if there is one.

    Raises StoreError, saying what differs, if the folder holds another run.
    """
    word = records.get_json(job.run_json)
    earlier = word or records.get_json(job.work / "fingerprint.json")
    if earlier is None:
        return None
    differs = provenance.differences(earlier.get("fingerprint"), mark)
    if differs:
        raise StoreError(
            f"{job.folder} was made otherwise: choose another --out, or begin anew with --restart "
            f"({'; '.join(differs[:MOST_TOLD])}{'; …' if len(differs) > MOST_TOLD else ''})"
        )
    return word if word and records.exists(job.labels / "zarr.json") else None


def clear(job: Job) -> None:
    """Remove what a run of this slide made, the final word first."""
    records.remove(job.run_json)
    records.remove(job.work / "fingerprint.json")
    for name in export.FILES:
        records.remove(job.folder / name)
    records.remove(job.region_place)
    store.remove(job.store)
    store.remove(job.work)


def flow(wanted: Wanted, out: Place, model: Model, begun: Begun) -> Flow:
    """The stages of a slide, one after the other; returns the content of its `run.json`.

    `begun` is told the job, and what the reader noted of the slide, once it is open.
    """
    config = wanted.config
    job, slide = prepare(wanted.slide, wanted.name, out, config, model)
    with slide:
        begun(job, slide.notes)
    mark = fingerprint(job, config)
    if config.restart:
        clear(job)
    word = finished(job, mark)
    if word is not None and not (config.retry_holes and word["holes"]):
        store.remove(job.work)
        return {**(yield from _exported(job, config.exports, word)), "again": True}
    fresh = word is not None or not records.exists(job.work / "fingerprint.json")
    if fresh or (config.retry_holes and holes.found(job)):
        _begin(job, config, mark)
    seconds: dict[str, float] = {}
    if job.region is not None:
        yield from _timed([_solo(job, "region", partial(tasks.region, job))], seconds)
    copied = _copied(job)
    yield from _timed(_image(job, copied), seconds)
    job = replace(job, holes=holes.tiles(job, "image"))
    _some_left(job, job.holes, copied, SlideError)
    looking = partial(tasks.look, job, config.stain, config.channel, tissue_only=config.tissue_only)
    yield from _timed([_solo(job, "look", looking)], seconds)
    job = look.known(job)
    if not job.direct:
        _publish_image(job)
    tissue_tiles = look.tissue_tiles(job)
    whole = [tile for tile in tissue_tiles if tile not in job.holes]
    yield from _timed([_segment(job, whole)], seconds)
    job = replace(job, holes=job.holes | holes.tiles(job, "segment"))
    _some_left(job, job.holes, tissue_tiles, RunError)
    yield from _timed([_solo(job, "merge", partial(tasks.merge, job))], seconds)
    near = _near_seeds(job)
    labelling = partial(tasks.label, job)
    yield from _timed(
        [_stage(job, "label", labelling, near, "label", may_have_holes=True)], seconds
    )
    _some_left(job, holes.tiles(job, "label"), near, RunError)
    job = replace(job, holes=job.holes | holes.tiles(job, "label"))
    above = _pyramid(job, "pyramid", "labels", tasks.shrink_labels, near)
    yield from _timed(above, seconds)
    yield from _timed([_solo(job, "tally", partial(results.tally, job))], seconds)
    yield from _timed(_tables(job, config.exports), seconds)
    word = _word(job, config, mark, len(tissue_tiles), seconds)
    last = export.last(config.exports)
    finishing = _stage(job, "report", partial(export.finish, job, word), last, "report")
    yield replace(finishing, tile_megapixels=0.0)
    word["exports"] = export.sizes(job.folder)
    _publish_labels(job)
    records.put_json(job.run_json, word)
    store.remove(job.work)
    return word


def _begin(job: Job, config: RunConfig, mark: dict[str, Any]) -> None:
    """An output without anything of an earlier run."""
    clear(job)
    _create(job)
    if job.region is not None:
        regions.keep(job, regions.read(config.region or (), job.resolution.slide_px))
    records.put_json(job.work / "fingerprint.json", {"fingerprint": mark})


def _exported(
    job: Job, wanted: Exports, word: dict[str, Any]
) -> Generator[Stage, None, dict[str, Any]]:
    """The final word of a finished slide, once the files that it lacks are made."""
    there = export.sizes(job.folder)
    missing = [name for name in export.made_late(wanted) if name not in there]
    if missing:
        yield Stage("export", partial(export.late, job.folder, missing), [0], 1, 0.0)
    if wanted.report and export.REPORT not in there:
        again = runfile.job(word, job.folder, Path(job.model.path))
        yield Stage("report", partial(report.later, again, word), [0], 1, 0.0)
        store.remove(job.work)
    now = export.sizes(job.folder)
    if now == there:
        return word
    word = {**word, "exports": now}
    records.put_json(job.run_json, word)
    return word


def _tables(job: Job, wanted: Exports) -> Iterable[Stage]:
    """What is known of each nucleus, tile by tile, and the files that are made of it."""
    owners = sorted(records.done(job.records("new")))
    measuring = partial(results.measured, job, results.far_guests(job))
    yield _stage(job, "measure", measuring, owners, "measure")
    meeting = partial(results.met, job, results.strays(job), geojson=wanted.geojson)
    yield _stage(job, "neighbours", meeting, owners, "neighbours")
    making = _stage(job, "export", partial(export.export, job), export.first(wanted), "export")
    yield replace(making, tile_megapixels=0.0)


def _timed(stages: Iterable[Stage], seconds: dict[str, float]) -> Generator[Stage, None, None]:
    for stage in stages:
        began = time.monotonic()
        yield stage
        seconds[stage.name] = seconds.get(stage.name, 0.0) + time.monotonic() - began


def _stage(
    job: Job,
    name: str,
    task: Callable[[int], None],
    tiles: Sequence[int],
    record: str,
    *,
    may_have_holes: bool = False,
) -> Stage:
    settled = records.done(job.records(record))
    if may_have_holes:
        settled |= holes.tiles(job, name)
    side = job.grid.tile_px
    return Stage(
        name=name,
        task=task,
        tiles=[tile for tile in tiles if tile not in settled],
        total=len(tiles),
        tile_megapixels=min(side, job.grid.height) * min(side, job.grid.width) / 1e6,
        done=lambda tile: records.exists(job.record(record, tile)),
        hole=partial(holes.write, job, name) if may_have_holes else None,
        lane="network" if name == "segment" else "other",
    )


def _solo(job: Job, name: str, task: Callable[[int], None]) -> Stage:
    """A step that is of the whole slide, and is done by one worker."""
    return replace(_stage(job, name, task, [0], name), tile_megapixels=0.0)


def _copied(job: Job) -> list[int]:
    """Tiles of the image: with a region, those that windows near it look at."""
    if job.region is None:
        return list(range(len(job.grid)))
    near = regions.tiles(job, regions.blocks(job))
    reach = job.grid.reach.halo_px
    return sorted({other for tile in near for other in job.grid.around(tile, reach)})


def _image(job: Job, copied: Sequence[int]) -> Iterable[Stage]:
    """The copy of the slide, unless there is none, and its low levels."""
    if not job.direct:
        tiles, copy = job.grid.along(copied), partial(tasks.copy_image, job)
        yield _stage(job, "image", copy, tiles, "image-0", may_have_holes=True)
        last = pixels.first(job) if job.apart else None
        yield from _pyramid(job, "image", "image", tasks.shrink_image, copied, last)
    if job.apart:
        seeing = partial(tasks.overview, job)
        yield replace(_stage(job, "image", seeing, [0], "overview"), tile_megapixels=0.0)


def _segment(job: Job, tiles: Sequence[int]) -> Stage:
    task = partial(tasks.segment, job)
    return _stage(job, "segment", task, job.grid.along(tiles), "segment", may_have_holes=True)


def _pyramid(
    job: Job,
    name: str,
    kind: str,
    shrink: Callable[..., None],
    below: Sequence[int],
    last: int | None = None,
) -> Iterable[Stage]:
    """Levels that no tile has written with its own, all of them or those before `last`; with a
    region, where tiles of level 0 are `below`.
    """
    for level in range(job.own_levels + 1, last or len(job.levels)):
        grid = job.level_grid(level)
        tiles: Sequence[int] = range(len(grid))
        if job.region is not None:
            cores = (job.grid.core(tile).scale_down(2**level) for tile in below)
            side = grid.tile_px
            tiles = sorted(
                {
                    row * grid.columns + column
                    for core in cores
                    for row in range(core.y0 // side, -(-core.y1 // side))
                    for column in range(core.x0 // side, -(-core.x1 // side))
                }
            )
        yield _stage(job, name, partial(shrink, job, level), tiles, f"{kind}-{level}")
        if len(grid) == 1:
            return


def _near_seeds(job: Job) -> list[int]:
    """Tiles that hold seeds, and those that a neighbour's nuclei may grow into."""
    seeded = records.done(job.records("new"))
    reach = job.postprocessing.grow_px
    return sorted({other for tile in seeded for other in job.grid.around(tile, reach)} - job.holes)


def _some_left(
    job: Job, bad: frozenset[int], tiles: Sequence[int], kind: type[NucleiflowError]
) -> None:
    """A slide of nothing but holes has failed. Raises `kind`, with the last reason."""
    if tiles and bad.issuperset(tiles):
        reason = holes.found(job)[-1]["reason"]
        raise kind(f"{job.slide}: every tile failed, like this: {reason}")


def _create(job: Job) -> None:
    """All arrays of the run, empty; no metadata yet that would let them look finished."""
    channels = len(job.channels)
    for number, shape in enumerate(job.levels):
        side = job.shard_px(number)
        if not job.direct:
            level = (channels, *shape)
            store.create_array(job.store / str(number), level, job.dtype, tile_px=side, axes="cyx")
        store.create_array(job.labels / str(number), shape, "uint32", tile_px=side, axes="yx")
    if job.direct:
        pixels.create(job)


def _publish_image(job: Job) -> None:
    norm = job.look.norm if job.look else None
    window = (norm.low, norm.high) if norm else (0.0, 255.0)
    top = 2 ** (8 * (1 if job.dtype == "uint8" else 2)) - 1
    windows = [(0.0, 255.0) if job.rgb else window] * len(job.channels)
    shown = ngff.omero(job.channels, rgb=job.rgb, windows=windows, top=top)
    store.set_ome(job.store, ngff.image(job.name, len(job.levels), job.resolution.pixel_um, shown))


def _publish_labels(job: Job) -> None:
    """From now on viewers see the labels, and the holes in them."""
    levels, missing = len(job.levels), holes.found(job)
    shown = ngff.labels("nuclei", levels, job.resolution.pixel_um, beside=not job.direct)
    store.set_ome(job.labels, shown)
    told: dict[str, Any] = {"holes": missing} if missing else {}
    if job.direct:
        told |= {"slide": source.absolute(job.slide), "resolution": job.resolution.as_json()}
    if told:
        store.set_attribute(job.labels, "nucleiflow", told)
    store.set_ome(job.labels.parent, ngff.labels_group(["nuclei"]))
    if job.direct:
        store.set_ome(job.store, ngff.labels_group(["labels/nuclei"]))


def _word(
    job: Job,
    config: RunConfig,
    mark: dict[str, Any],
    tissue_tiles: int,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The content of run.json, the final word on a slide."""
    chosen, tallied = job.look, results.tallied(job)
    within = {}
    if job.region is not None:
        within["region"] = regions.facts(job, config.region or (), tallied["nuclei"])
    return {
        "status": "done",
        "slide": job.slide,
        "labels": "/".join((job.store.name, "labels", "nuclei")),
        **tallied,
        **within,
        "height": job.grid.height,
        "width": job.grid.width,
        "mpp": job.mpp,
        "resolution": job.resolution.as_json(),
        "channels": list(job.channels),
        "dtype": job.dtype,
        "colour": job.rgb,
        "image": "none" if job.direct else "copy",
        "low_levels": "slide" if job.apart else "means",
        "tiles": len(job.grid),
        "tile_px": job.grid.tile_px,
        "tiles_with_tissue": tissue_tiles,
        "stain": chosen.stain if chosen else None,
        "stain_reason": chosen.reason if chosen else None,
        "normalisation": chosen.norm.as_json() if chosen else None,
        "postprocessing": job.postprocessing.as_json(),
        "halo_px": job.grid.reach.halo_px,
        "holes": holes.found(job),
        "exports": export.sizes(job.folder),
        "summary": export.summary(job),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "fingerprint": mark,
        "provenance": {
            "slide": source.absolute(job.slide),
            "model": job.model.path,
            "config": config.model_dump(mode="json", exclude={"restart", "retry_holes", "debug"}),
            **provenance.here(),
        },
    }
