"""From Python: segment a slide, look at it, count. `python jobs/tour.py SLIDE FOLDER`."""

import sys
from pathlib import Path

import nucleiflow as nf


def main(slide: str, folder: Path) -> None:
    """Segment `slide` into `folder` and save pictures there."""
    result = nf.segment(slide, out=folder)
    print(result)

    labels = result.labels  # lazy: only what is sliced is read
    print("labels", labels.shape, labels.dtype, "- nuclei in the first 1,000 rows:")
    print(len(set(labels[:1000].ravel()) - {0}))

    nuclei = result.nuclei  # a pandas.DataFrame, a row for each nucleus
    print(nuclei[["area", "circularity", "probability_mean"]].describe().round(2))
    alone = nuclei[nuclei["neighbors"] < nuclei["neighbors"].quantile(0.1)]
    print(f"{len(alone):,} nuclei stand rather alone")

    y, x = (side // 2 for side in labels.shape)
    field = (max(0, y - 300), max(0, x - 450), y + 300, x + 450)
    result.show(field).save(folder / "outlines.png")
    result.show(field, by="area").save(folder / "area.png")
    result.show(whole=True, by="neighbors").save(folder / "density.png")


if __name__ == "__main__":  # workers are processes of their own
    main(sys.argv[1], Path(sys.argv[2]))
