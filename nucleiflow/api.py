"""From Python: `nf.segment("slide.svs", out="out")` -> labels, nuclei and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nucleiflow import errors, place
from nucleiflow.place import Place

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import PIL.Image
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Result:
    """A finished slide: the folder that a run made for it, and the content of its `run.json`."""

    folder: Place
    run: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.folder.name)

    @property
    def labels(self) -> Any:
        """Level 0 of the labels, a lazy Zarr array (h, w) uint32: 0 is no nucleus."""
        return self._level("labels/nuclei/0")

    @property
    def image(self) -> Any:
        """Level 0 of the image, a lazy Zarr array (c, h, w), at the working resolution.

        Raises ConfigError if the run kept no copy of the slide.
        """
        if self.run.get("image") == "none":
            raise errors.ConfigError(
                f"{self.name} was run with image='none': its pixels are in {self.run['slide']} only"
            )
        return self._level("0")

    def _level(self, inside: str) -> Any:
        from nucleiflow import store

        image = self.run["labels"].removesuffix("/labels/nuclei")
        return store.open_readonly(self.folder / image / inside)

    @property
    def nuclei(self) -> pandas.DataFrame:
        """A row for each nucleus, by its label: see the README for the columns.

        Outlines are in `nuclei.parquet`, which `geopandas.read_parquet` reads.
        """
        from nucleiflow import records, tables

        with records.reader(self.folder / "nuclei.parquet") as file:
            return tables.frame(file)

    @property
    def report(self) -> Place:
        """The page to look at."""
        return self.folder / "report.html"

    def show(
        self,
        region: tuple[int, int, int, int] | None = None,
        *,
        whole: bool = False,
        by: str | None = None,
    ) -> PIL.Image.Image:
        """Picture of the nuclei in `region` (y0, x0, y1, x1; working px, half-open), of the `whole`
        slide made small, or else of the field fullest of nuclei.

        They are outlined or, with `by`, filled: dark where that column of `nuclei` is low, bright
        where it is high. Raises ConfigError if there is no such column.
        """
        from nucleiflow import picture, show
        from nucleiflow.box import Box

        box = Box(*region) if region else None
        colour = self._colours(by) if by else None
        drawn = show.draw(self.folder, self.run, region=box, whole=whole, colour=colour)
        return picture.of_array(drawn)

    def _colours(self, column: str) -> NDArray[np.uint8]:
        """A colour (n + 1, 3) for each label, from the 2nd to the 98th percentile of a column."""
        import numpy as np

        from nucleiflow import charts

        nuclei = self.nuclei
        if column not in nuclei or nuclei[column].dtype == object:
            raise errors.ConfigError(f"no column {column!r}: use one of {', '.join(nuclei)}")
        values = nuclei[column].to_numpy(float)
        low, high = np.nanquantile(values, (0.02, 0.98)) if len(values) else (0.0, 1.0)
        share = np.nan_to_num((values - low) / max(high - low, 1e-12)).clip(0, 1)
        table = np.zeros((self.run["nuclei"] + 1, 3), np.uint8)
        table[nuclei["label"]] = charts.heat_colours()[(share * 255).astype(int)][:, :3]
        return table

    def __repr__(self) -> str:
        holes = f", {len(self.run['holes'])} holes" if self.run["holes"] else ""
        return f"<Result {self.name}: {self.run['nuclei']:,} nuclei{holes} in {self.folder}>"


def segment(slide: str | Path, out: str | Path, *, quiet: bool = False, **options: Any) -> Result:
    """Segment a slide, on this machine unless told otherwise, and write all results into `out`.

    `options` are the flags of `nucleiflow run`, with underscores: `workers=2`, `mpp=0.25`,
    `stain="h&e"`, `cluster="slurm"`. What an earlier call did is not done again. In a script, call
    it below `if __name__ == "__main__":`, for workers are processes of their own.

    Raises NucleiflowError: its text is one line and says what to do.
    """
    return segment_all([slide], out, quiet=quiet, **options)[0]


def segment_all(
    slides: Sequence[str | Path], out: str | Path, *, quiet: bool = False, **options: Any
) -> list[Result]:
    """Segment many slides in one stream of tiles -> their results, in order.

    Raises RunError, after all the others are done, if a slide failed; NucleiflowError for what
    concerns all.
    """
    from nucleiflow import batch, jobfile, progress

    switches = {name: bool(options.pop(name, False)) for name in ("restart", "retry_holes")}
    jobfile.check_names(options)
    given = {"slides": [str(slide) for slide in slides], "out": str(out), **options}
    loaded = jobfile.of_flags(jobfile.nested(given))
    wanted = jobfile.wanted(loaded, jobfile.Switches(**switches))
    shown = progress.choose(quiet=quiet)
    where = place.of(loaded.job.out)
    try:
        outcome = batch.run(
            wanted,
            where,
            cluster=loaded.job.cluster,
            failure=loaded.job.failure,
            progress=shown,
            job=loaded.as_json(),
        )
    finally:
        shown.close()
    failed = [row["reason"] for row in outcome.slides if row["status"] == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more: see batch.json)" if len(failed) > 1 else ""
        raise errors.RunError(failed[0] + more)
    return [load(where / one.name) for one in wanted]


def load(folder: str | Place) -> Result:
    """The result of an earlier run, from the folder of a slide. Raises ConfigError."""
    from nucleiflow import finished

    slide = finished.one(place.of(folder), "nucleiflow.load")
    return Result(slide.folder, slide.word)
