"""The pictures of the README, from the generated demonstration slide: `make gallery`."""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

import nucleiflow as nf
from nucleiflow import demo, showcase

ROOT = Path(__file__).parents[2]
SIZE_PX, COLOURS = 4096, 128


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="scratch")
    parser.add_argument("--pictures", type=Path, default=ROOT / ".github")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    slide = chosen.folder / "demo.ome.tif"
    showcase.write_slide(slide, demo.make_slide(SIZE_PX, seam_px=1024)[0])
    tour = [sys.executable, ROOT / "jobs" / "tour.py", slide, chosen.folder / "out"]
    done = subprocess.run(tour, check=True, capture_output=True, text=True)
    (chosen.pictures / "tour.txt").write_text(done.stdout.replace(f"{chosen.folder}/", ""))
    for name in ("outlines", "area"):
        with Image.open(chosen.folder / "out" / f"{name}.png") as picture:
            picture.quantize(COLOURS).save(chosen.pictures / f"{name}.png", optimize=True)
    screenshot(Path(nf.load(chosen.folder / "out").report), chosen.pictures / "report.png")


def screenshot(page, png):
    """The head of a report, in a window of 1,200 px."""
    sys.path.insert(0, str(ROOT / "tests"))
    import browser

    with browser.opened(page, viewport={"width": 1200, "height": 1250}) as (shown, _):
        shown.wait_for_timeout(3000)
        shown.screenshot(path=png)
    with Image.open(png) as picture:
        small = picture.convert("RGB").quantize(COLOURS)
    small.save(png, optimize=True)


if __name__ == "__main__":
    main()
