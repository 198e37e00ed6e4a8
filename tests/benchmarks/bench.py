"""`make bench`: what is said of speed and memory, measured in one go, kept with date and machine.

Runs the other benchmarks, each in a process of its own, one after the other; writes
`tests/benchmarks/results.json` and the tables between the `bench` marks of README.md and DESIGN.md.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import largest
import psutil

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
RESULTS, GPU = HERE / "results.json", HERE / "gpu-h200.json"
README, DESIGN = ROOT / "README.md", ROOT / "nucleiflow" / "DESIGN.md"
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
RUNS = {
    "pipeline": ["pipeline.py", "{folder}/pipeline"],
    "merge": ["merge.py", "{folder}/merge"],
    "workers": ["workers.py", "{folder}/workers"],
    "start": ["start.py", "{folder}/start"],
    "peers": ["peers.py", "{folder}/peers", "--picture", str(ROOT / ".github" / "peers.svg")],
}
QUICK = {  # fewer rounds, and the small sizes: minutes
    "pipeline": ["--rounds", "1", "--only", "ratio", "stages", "feed"],
    "merge": ["--rounds", "1", "--tiles", "10000", "100000"],
    "workers": ["--rounds", "1"],
    "start": ["--rounds", "2"],
    "peers": ["--rounds", "1", "--sides", "2048", "4096"],
}
STAGES = {  # tasks as a reader knows them
    "tasks.copy_image": "image: decode and copy",
    "tasks.shrink_image": "image: pyramid",
    "tasks.overview": "image: low levels",
    "tasks.look": "look",
    "tasks.segment": "segment, beside the network",
    "tasks.merge": "merge",
    "tasks.label": "label, grow, sum up, audit",
    "tasks.shrink_labels": "labels: pyramid",
    "results.tally": "tally",
    "results.measured": "measure, outline",
    "results.met": "neighbours, GeoJSON",
    "export.export": "tables, GeoJSON",
    "export.finish": "report",
}
START = {  # commands as a reader knows them
    "import": "`import tensorflow`",
    "run": "`nucleiflow run`",
    "run_workers_0": "`nucleiflow run --workers 0`",
    "run_again": "`nucleiflow run`, all done before",
    "bad": "`nucleiflow run` of a file that is no image",
    "help": "`nucleiflow run --help`",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="scratch: 20 GB")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--parts", nargs="*", help="of pipeline.py: the others stay as they were")
    parser.add_argument("--quick", action="store_true", help="one round, and small sizes")
    parser.add_argument("--write", action="store_true", help="the README again, from results.json")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in () if given.write else given.only:
        more, kept = QUICK.get(name, []) if given.quick else [], {}
        if given.parts and name == "pipeline":
            more, kept = [*more, "--only", *given.parts], found.get(name, {})
        found[name] = {**kept, **machine(), "quick": given.quick, **run(name, given.folder, more)}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    write(README, table(found))
    if {"pipeline", "merge"} <= set(found):
        write(DESIGN, ["", *largest.table(), ""])


def write(file, lines):
    """Lines between the marks of a file."""
    before, rest = file.read_text().split(BEGIN)
    file.write_text(before + BEGIN + "\n".join(lines) + "\n" + rest[rest.index(END) :])


def machine():
    """When and where something was measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "processor": processor(),
        "python": platform.python_version(),
    }


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def run(name, folder, more):
    script, *options = [*RUNS[name], *more]
    place = folder.absolute() / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    words = [one.format(folder=folder.absolute()) for one in options]
    subprocess.run([sys.executable, HERE / script, *words, "--json", place], check=True)
    return json.loads(place.read_text())


# what is found, as rows of Markdown


def table(found):
    known = {name: one for name, one in found.items() if name in TOLD}
    parts = [line for name, one in known.items() for line in [*TOLD[name](one), ""]]
    dates = sorted({one["date"] for one in known.values()})
    one = next(iter(known.values()))
    where = f"{one['cores']} cores ({one['processor']}), {one['memory_gb']} GB"
    quick = (
        ", parts of it in one round (`bench.py --quick`)"
        if any(part["quick"] for part in known.values())
        else ""
    )
    head = f"Measured {' and '.join(dates)} on {where}{quick}; medians (least to most)."
    return ["", head, "", *parts, *gpu(json.loads(GPU.read_text())), ""]


def gpu(found):
    """What `gpu.py` printed on a machine with a GPU; it does not run here."""
    head = f"{found['gpu']} and {found['cores']} cores, {found['date']}, network by {found['by']}"
    lines = [f"| {head} (`tests/benchmarks/gpu.py`) | |", "|---|---|"]
    for name, one in found["network"].items():
        lines.append(
            f"| network, {name.replace(' ', ', windows of ')} px | {one['mp_per_s']:.0f} MP/s; "
            f"{one['differ']:.2%} of the maps differ from float32, by {one['largest']} of 255 |"
        )
    lines += [
        f"| workers: {one['workers']}, threads: {one['threads']}, each worker with a network of "
        f"{one['rate']:.0f} MP/s | networks busy {one['busy']:.0%}; "
        f"{one['inner_mp_per_s']:.0f} MP/s of slides |"
        for one in found["standin"]
    ]
    lines += [
        f"| the GPU itself ({one['precision']}), workers: {one['workers']}, threads: "
        f"{one['threads']} | {one['inner_mp_per_s']:.0f} MP/s of slides |"
        for one in found["live"]
    ]
    return lines


def said(one, digits=2):
    if one["least"] == one["most"]:
        return f"{one['median']:.{digits}f}"
    return f"{one['median']:.{digits}f} ({one['least']:.{digits}f} to {one['most']:.{digits}f})"


def pipeline(found):
    lines = ["| a run beside its network | |", "|---|---|"]
    if "ratio" in found:
        one = found["ratio"]
        size = f"{one['megapixels']:.0f} MP, {one['nuclei']:,} nuclei"
        alone, together = one["one_window"], one["two_windows"]
        lines += [
            f"| slide, all stages and files, over the bare network, window by window ({size}) "
            f"| {said(alone['slide_over_bare'])} x |",
            f"| the command, its start and end too, over the bare network, window by window "
            f"| {said(alone['command_over_bare'])} x |",
            f"| slide over the bare network with two windows at once, as a worker computes them "
            f"| {said(together['slide_over_bare'])} x |",
        ]
    if "stages" in found:
        one = found["stages"]
        lines += [
            f"| processor beside network and decoding, "
            f"{one['nuclei_per_megapixel']:.0f} nuclei per MP "
            f"| {said(one['beside_decoding_ms_per_megapixel'], 0)} ms per MP |",
            f"| decoding the slide (zlib, 16 bit) "
            f"| {said(one['decoding_ms_per_megapixel'], 0)} ms per MP |",
            f"| slide per second that a core can keep up with "
            f"| {said(one['megapixels_per_second_and_core'], 1)} MP |",
        ]
    for one in found.get("feed", []):
        lines.append(
            f"| a network of {one['network_megapixels_per_second']:.0f} MP/s is busy "
            f"| {one['busy']:.0%}; {one['slides_megapixels_per_second']:.1f} MP/s of slides from "
            f"start to end |"
        )
    if "scale" in found:
        peaks, linear = found["scale"]["peaks"], found["scale"]["linear"]
        who = {
            "worker": "worker",
            "driver": "driver",
            "loader": "process that workers are forks of",
        }
        for kind, text in who.items():
            told = ", ".join(f"{one[f'{kind}_mb']:,.0f}" for one in peaks)
            sizes = ", ".join(f"{one['megapixels']:,.0f}" for one in peaks)
            lines.append(f"| peak memory of the {text} at {sizes} MP | {told} MB |")
        few, many = linear["megapixels"]
        lines.append(
            "| processor per MP of the tiles' tasks, with the slide's, with the start of "
            f"processes, {many:,.0f} MP over {few:,.0f} MP | {said(linear['tiles'], 2)}, "
            f"{said(linear['slide'], 2)}, {linear['command']:.2f} x |"
        )
    if "stages" in found:
        lines += ["", "| processor, ms per MP, beside the network | |", "|---|---|"]
        spent = found["stages"]["ms_per_megapixel"]
        for name, text in STAGES.items():
            if name in spent:
                lines.append(f"| {text} | {said(spent[name], 1)} |")
    return lines


def merge(found):
    lines = [
        "| merge of | us per tile | peak MB | of a run on a CPU | on a GPU |",
        "|---|---|---|---|---|",
    ]
    for one in found["rows"]:
        shares = list(one["share_percent"].values())
        lines.append(
            f"| {one['tiles']:,} tiles, {one['nuclei']:,} nuclei ({one['records']}) "
            f"| {said(one['us_per_tile'], 0)} | {one['peak_mb']['median']:,.0f} "
            f"| {shares[0]:.3f} % | {shares[-1]:.3f} % |"
        )
    return lines


def workers(found):
    ratio = found["two_over_one"]
    return [
        "| two workers over one | |",
        "|---|---|",
        f"| wall | {said(ratio['seconds'])} x |",
        f"| processor | {said(ratio['cpu_seconds'])} x |",
        f"| labels | {'the same' if found['same_labels'] else 'DIFFER'} |",
    ]


def start(found):
    lines = [
        f"| a slide of {found['megapixels']:.1f} MP, from start to end | s | over the import |",
        "|---|---|---|",
    ]
    for name, text in START.items():
        seconds, ratio = said(found["seconds"][name], 1), said(found["over_import"][name])
        lines.append(f"| {text} | {seconds} | {ratio} x |")
    return lines


def peers(found):
    lines = [
        "| the same maps | MP/s | peak MB above start | split, merged, lost, doubled at seams |",
        "|---|---|---|---|",
    ]
    for one in found["rows"]:
        seam = one["seams"]
        wrong = ", ".join(f"{seam[kind]:,}" for kind in ("split", "merged", "lost", "doubled"))
        lines.append(
            f"| {one['method']}, {one['side_px']:,} px squared | {said(one['mp_per_s'], 1)} "
            f"| {one['above_start_mb']['median']:,.0f} "
            f"| {'no seams' if one['method'].endswith(', whole') else wrong} |"
        )
    return lines


TOLD = {
    "pipeline": pipeline,
    "merge": merge,
    "workers": workers,
    "start": start,
    "peers": peers,
}

if __name__ == "__main__":
    main()
