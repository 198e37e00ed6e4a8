"""Seams, speed and memory beside other packages, on the same maps: `make bench-peers`.

The shipped network's maps of the generated slide are made once; then each method makes labels of
them, each time in a process of its own, from and to Zarr, with two threads. Packages that are not
ours run as they are, in environments that are made in FOLDER. What seams did is what differs from
the labels of the same method without tiles.

* nucleiflow: the stages of a run that follow the network; without tiles, scikit-image's labels.
* scikit-image: label and watershed of the whole image: there are no tiles.
* dask-image: `ndmeasure.label` of the seeds; without tiles, SciPy's. It does not grow nuclei.
* cellpose: `distributed_eval`, a watershed in place of its network; without tiles, scikit-image's.
  As it is it unites nothing in images of two dimensions; *repaired*, it does.
* StarDist: `predict_instances_big`, with distances measured on our nuclei in place of its network;
  without tiles, `predict_instances`.
* cellpose's averaging: the shipped network on tiles of 256 px that overlap by a tenth, averaged by
  `transforms.average_tiles`; without tiles, the maps that all other methods use.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peer
import peerspicture
import zarr
from rounds import spread
from seamerrors import Errors, errors

from nucleiflow import __version__, demo, inference, model, normalise, plan

HERE = Path(__file__).parent
FEW_PX, SOME_PX, MANY_PX = 2048, 4096, 8192  # sides; slow methods are asked for the first ones
CPU_TORCH = ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "torch==2.13.0+cpu")
ENVIRONMENTS = {
    "dask-image": ("dask-image", "zarr"),
    "cellpose": (*CPU_TORCH, "cellpose", "dask-image", "distributed", "dask-jobqueue", "zarr",
                 "scikit-image"),
    "stardist": ("stardist", "tensorflow-cpu", "zarr"),
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """`name` of the table; the method of a script and what it is without tiles; whose packages it
    needs (ours if none), and the largest side it is asked for.
    """

    name: str
    script: str
    method: str
    whole: str
    environment: str | None = None
    most_px: int = 1 << 20


METHODS = (
    Method("nucleiflow", "ours.py", "tiled", "ours.py whole"),
    Method("scikit-image, whole", "peer.py", "skimage", ""),
    Method("dask-image, seeds", "peer.py", "dask_image", "peer.py scipy_label", "dask-image"),
    Method("cellpose", "peer.py", "cellpose", "peer.py skimage", "cellpose", FEW_PX),
    Method(
        *("cellpose, repaired", "peer.py", "cellpose_repaired", "peer.py skimage", "cellpose"),
        SOME_PX,
    ),
    Method("StarDist", "peer.py", "stardist", "peer.py stardist_whole", "stardist", FEW_PX),
)


def prepared(envs: Path) -> None:
    """Environments of the packages that are not ours; those that are there are kept."""
    for name, packages in ENVIRONMENTS.items():
        if (envs / name / "made").exists():
            continue
        print(f"installing {name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", envs / name], check=True)
        pip = [python(envs, name), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *packages], check=True)
        (envs / name / "made").touch()


def python(envs: Path, name: str | None) -> str:
    return sys.executable if name is None else str(envs / name / "bin" / "python")


def called(envs: Path, environment: str | None, *words: Any) -> dict[str, Any]:
    """Run a script; the JSON in the last line that it prints."""
    limits = {name: str(peer.THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    script, *rest = map(str, words)
    done = subprocess.run(
        [python(envs, environment), str(HERE / script), *rest],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **limits, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr[-3000:]}")
    last = done.stdout.strip().splitlines()[-1:]
    return json.loads(last[0]) if last else {}


def seen_by_network(size_px: int) -> np.ndarray:
    """The generated slide (h, w, 3) uint8 as the network sees it."""
    image = demo.make_slide(size_px, seam_px=peer.TILE_PX)[0][..., None]
    sample = image[::4, ::4].reshape(-1, 1)
    return normalise.apply(image, normalise.measure(sample, stain="fluorescence", channels=[0]))


def network(seen: np.ndarray) -> np.ndarray:
    """Its maps, tile by tile with the halo that it needs, packed."""
    known = model.load()
    grid = plan.Grid(*seen.shape[:2], peer.TILE_PX, known.reach)
    predict = inference.predictor(known.path, known.sha256)
    packed = np.zeros(grid.shape, np.uint16)
    for index in range(len(grid)):
        tile = grid.tile(index)
        box, rows, columns = plan.mirror(tile.window, *grid.shape)
        maps = predict(seen[box.slices()][np.ix_(rows, columns)])
        maps = maps[tile.core.slices(origin=tile.window)].astype(np.uint16)
        packed[tile.core.slices()] = (maps[..., 0] << 8) | maps[..., 1]
    return packed


def write_maps(folder: Path, sizes: Sequence[int]) -> None:
    """The maps of each size, once: of a slide, and then of each size before and its mirrors."""
    packed = None
    for size in sizes:
        place = folder / str(size) / "maps.zarr"
        if not (place / "zarr.json").exists():
            if packed is None or size == sizes[0]:
                seen = seen_by_network(size)
                place.parent.mkdir(parents=True, exist_ok=True)
                np.save(place.parent / "seen.npy", np.moveaxis(seen, -1, 0))
                packed = network(seen)
            else:
                packed = np.block([[packed, packed[:, ::-1]], [packed[::-1], packed[::-1, ::-1]]])
            peer.create(place, packed.shape, "uint16")[:] = packed
        packed = labels(place)


def labels(place: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(place), mode="r")[:])


def measured(envs: Path, maps: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """All methods in turn, so that what disturbs the machine disturbs all of them."""
    side = int(maps.parent.name)
    chosen = [one for one in METHODS if side <= one.most_px]
    if any(one.environment == "stardist" for one in chosen):
        nuclei = maps.parent / "whole-nucleiflow.zarr"
        called(envs, None, "ours.py", "whole", maps, nuclei)
        called(envs, "stardist", "peer.py", "stardist_maps", maps, nuclei)
    costs: dict[str, list[dict[str, float]]] = {one.name: [] for one in chosen}
    for _ in range(rounds):
        for one in chosen:
            out = maps.parent / f"{one.method}.zarr"
            costs[one.name].append(called(envs, one.environment, one.script, one.method, maps, out))
    for one in chosen:
        cost = costs[one.name]
        yield {
            "method": one.name,
            "side_px": side,
            "mp_per_s": spread([side**2 / 1e6 / round_["seconds"] for round_ in cost]),
            "cpu_seconds": spread([round_["cpu_seconds"] for round_ in cost]),
            "peak_mb": spread([round_["peak_mb"] for round_ in cost]),
            "above_start_mb": spread([round_["peak_mb"] - round_["start_mb"] for round_ in cost]),
            "seams": asdict(seams(envs, maps, one)) | doubled(maps, one),
        }


def seams(envs: Path, maps: Path, one: Method) -> Errors:
    """What differs from the same method without tiles."""
    found = labels(maps.parent / f"{one.method}.zarr")
    if not one.whole:
        return errors(found, found)
    script, method = one.whole.split()
    place = maps.parent / f"whole-{method}.zarr"
    if method != "skimage" or not place.exists():
        called(envs, one.environment, script, method, maps, place)
    return errors(labels(place), found)


def doubled(maps: Path, one: Method) -> dict[str, int]:
    """Centres of nuclei that lie within 3 px of another: StarDist's objects may overlap."""
    if one.method != "stardist":
        return {"doubled": 0}
    from scipy.spatial import cKDTree

    points = np.load(maps.parent / "points.npy")
    return {"doubled": len(cKDTree(points).query_pairs(3.0))}


def averaged(envs: Path, folder: Path) -> dict[str, Any]:
    """Cellpose's tiles and weights with the shipped network, beside exact maps."""
    exact = folder / "maps.zarr"
    called(envs, "cellpose", "peer.py", "tiles", exact, folder / "none")
    known = model.load()
    predict = inference.predictor(known.path, known.sha256)
    tiles = np.moveaxis(np.load(folder / "tiles.npy"), 1, -1)
    answers = np.stack([np.moveaxis(predict(one), -1, 0) for one in tiles])
    np.save(folder / "answers.npy", answers)
    called(envs, "cellpose", "peer.py", "average", exact, folder / "averaged.zarr")
    averages = folder / "whole-averaged.zarr"
    called(envs, None, "ours.py", "whole", folder / "averaged.zarr", averages)
    exactly = folder / "whole-nucleiflow.zarr"
    called(envs, None, "ours.py", "whole", exact, exactly)
    mine, theirs = labels(exact), labels(folder / "averaged.zarr")
    side = mine.shape[0]
    step = plan.DEFAULT_TILE_PX
    return {
        "method": "cellpose, averaged tiles",
        "side_px": side,
        "seams": asdict(errors(labels(exactly), labels(averages))),
        "pixels_differ_percent": 100 * float((mine != theirs).mean()),
        "network_px_per_px": len(tiles) * tiles.shape[1] ** 2 / side**2,
        "our_network_px_per_px": (step + 2 * known.reach.halo_px) ** 2 / step**2,
    }


def versions(envs: Path) -> dict[str, str]:
    found = {"nucleiflow": __version__, "python": platform.python_version()}
    for environment, of in (
        (None, "skimage"),
        ("dask-image", "dask_image"),
        ("cellpose", "cellpose"),
        ("stardist", "stardist"),
    ):
        found |= called(envs, environment, "peer.py", "versions", "none", "none", "--of", of)
    return found


def line(row: dict[str, Any], first: dict[str, Any]) -> str:
    speed, seam = (
        row["mp_per_s"],
        Errors(**{k: v for k, v in row["seams"].items() if k != "doubled"}),
    )
    ratio = speed["median"] / first["mp_per_s"]["median"]
    return (
        f"{row['method']:<22} {row['side_px']:>6} {speed['median']:>7.2f} "
        f"({speed['least']:.2f} to {speed['most']:.2f}) {ratio:>6.2f} "
        f"{row['peak_mb']['median']:>8,.0f} {row['above_start_mb']['median']:>8,.0f} "
        f"{seam.nuclei:>8,} {seam.split:>6} {seam.merged:>6} {seam.lost:>5} "
        f"{row['seams']['doubled']:>7} {seam.invented:>8} {seam.changed:>8}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="scratch: environments (4 GB), maps, labels")
    parser.add_argument("--sides", type=int, nargs="*", default=[FEW_PX, SOME_PX, MANY_PX])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--picture", type=Path, help="draw them here, as SVG")
    parser.add_argument("--envs", type=Path, help="environments, if not in the folder")
    parser.add_argument("--install", action="store_true", help="make the environments, and end")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    envs = (given.envs or given.folder / "envs").absolute()
    prepared(envs)
    if given.install:
        return
    write_maps(given.folder, given.sides)
    known = versions(envs)
    print(", ".join(f"{name} {version}" for name, version in known.items()))
    print(
        "                           px    MP/s (spread)   x ours   peak MB above start"
        "  nuclei  split merged  lost doubled invented  changed"
    )
    rows = []
    for side in given.sides:
        for row in measured(envs, given.folder / str(side) / "maps.zarr", given.rounds):
            rows.append(row)
            ours_row = next(one for one in rows if one["side_px"] == side)
            row["speed_over_ours"] = row["mp_per_s"]["median"] / ours_row["mp_per_s"]["median"]
            row["memory_over_ours"] = row["peak_mb"]["median"] / ours_row["peak_mb"]["median"]
            print(line(row, ours_row), flush=True)
    tiles = averaged(envs, given.folder / str(given.sides[0]))
    seam = Errors(**tiles["seams"])
    print(
        f"{tiles['method']}: {tiles['pixels_differ_percent']:.1f} % of pixels of the maps differ, "
        f"of {seam.nuclei:,} nuclei {seam.split} split, {seam.merged} merged, {seam.lost} lost, "
        f"{seam.invented} invented, {seam.changed:,} changed; network "
        f"{tiles['network_px_per_px']:.2f} px per px, ours {tiles['our_network_px_per_px']:.2f}"
    )
    result = {"benchmark": "peers", "versions": known, "rows": rows, "averaging": tiles}
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.picture:
        given.picture.write_text(peerspicture.drawn(result))


if __name__ == "__main__":
    main()
