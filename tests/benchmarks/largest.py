"""The largest run that is planned for, in figures that were measured: prints Markdown, which
`make bench` writes into nucleiflow/DESIGN.md.

1,000 slides of 100,000 x 80,000 px on 64 GPUs; reads `results.json` (make bench) and
`gpu-h200.json` (gpu.py), and says which resource is the last to be done.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
SLIDES, HEIGHT, WIDTH, GPUS, CORES_PER_GPU = 1_000, 80_000, 100_000, 64, 16
TISSUE, TILE_PX, HALO_PX = 0.4, 2048, 96
ALL = {"tasks.copy_image", "tasks.shrink_image", "tasks.overview"}  # work on all pixels
DRIVER_TASKS_PER_S = 6_000  # make bench-batch: 2,001 tiles a second, three tasks each
STAGES = 5  # tasks that a tile with tissue is in, beside those of the image
FILE_MB_PER_MP, COPY_MB_PER_MP = 0.4, 2.2  # a JPEG slide; its pixels, RGB as zstd
LABELS_MB_PER_MP, TABLES_BYTES = 0.055, 160  # labels and their pyramid; a nucleus in two files


def table():
    """The rows, as Markdown."""
    bench = json.loads((HERE / "results.json").read_text())
    gpu = json.loads((HERE / "gpu-h200.json").read_text())
    stages = bench["pipeline"]["stages"]
    cost = {name: one["median"] for name, one in stages["ms_per_megapixel"].items()}
    whole = SLIDES * HEIGHT * WIDTH / 1e6
    tissue = whole * TISSUE
    windows = tissue * ((TILE_PX + 2 * HALO_PX) / TILE_PX) ** 2
    on_all = sum(value for name, value in cost.items() if name in ALL)
    on_tissue = sum(cost.values()) - on_all
    cores = {"a copy": on_all * whole + on_tissue * tissue}
    decoding = stages["decoding_ms_per_megapixel"]["median"]
    cores["--image none"] = (on_tissue + decoding) * tissue + decoding * whole * 0.02
    rate = {
        kind: gpu["network"][f"{kind} 2240"]["mp_per_s"] for kind in ("float32", "tensorfloat32")
    }
    tiles = SLIDES * -(-HEIGHT // TILE_PX) * -(-WIDTH // TILE_PX)
    nuclei = tissue * stages["nuclei_per_megapixel"]
    tasks = tiles + STAGES * tiles * TISSUE
    merged = bench["merge"]["rows"][1]["us_per_tile"]["median"] / 1e6
    rows = [
        ("pixels, of them tissue", f"{whole / 1e6:.1f} and {tissue / 1e6:.1f} million MP"),
        ("through the network, with halo", f"{windows / 1e6:.2f} million MP"),
        ("tiles of 2,048 px, tasks", f"{tiles / 1e6:.2f} and {tasks / 1e6:.1f} million"),
        ("nuclei, if all tissue is dense", f"{nuclei / 1e9:.2f} billion"),
    ]
    for kind, value in rate.items():
        rows.append(
            (
                f"network, {GPUS} GPUs of {value:.0f} MP/s ({kind})",
                f"{windows / value / GPUS / 60:.1f} min",
            )
        )
    for kind, value in cores.items():
        seconds = value / 1e3 / GPUS / CORES_PER_GPU
        busy = windows / rate["float32"] / GPUS / seconds
        rows.append(
            (
                f"processors, {CORES_PER_GPU} cores per GPU, {kind}",
                f"{seconds / 60:.1f} min; GPUs busy {min(busy, 1):.0%} (float32)",
            )
        )
        needed = value / 1e3 / (windows / rate["float32"])
        rows.append((f"cores per GPU that keep it busy, {kind}", f"{needed:.0f}"))
    rows += [
        (
            "driver, 6,000 tasks per s (make bench-batch)",
            f"{tasks / DRIVER_TASKS_PER_S / 60:.1f} min",
        ),
        ("merge of a slide, one worker", f"{merged * tiles / SLIDES:.1f} s"),
        ("read from slides", f"{whole * FILE_MB_PER_MP / 1e6:.1f} TB"),
        ("written, with a copy", f"{(whole * COPY_MB_PER_MP) / 1e6:.1f} TB"),
        (
            "written, labels and tables",
            f"{tissue * LABELS_MB_PER_MP / 1e6:.2f} and {nuclei * TABLES_BYTES / 1e12:.2f} TB",
        ),
    ]
    head = ["| 1,000 slides of 100,000 x 80,000 px, 40 % tissue | |", "|---|---|"]
    return head + [f"| {name} | {value} |" for name, value in rows]


if __name__ == "__main__":
    print("\n".join(table()))
