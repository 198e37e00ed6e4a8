"""`make fuzz`: hostile bytes, guided by coverage, for every reader; prints what came of them.

Each target runs in a process of its own with bounded memory, so that crashes of codecs and bombs
are seen. What is found lies in the folder as files; `--again FILE` reads one once more.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

MEMORY_BYTES = 3 << 29  # more than the process has when it begins
SECONDS = 15  # for one input
MAX_CRASHES = 5
NAMES = (
    "tiff", "picture", "zarr", "dicom", "czi", "job", "manifest", "arrays", "json", "model",
    "network", "sidecar", "finished", *(["region"] if find_spec("nucleiflow.regions") else []),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what is found")
    parser.add_argument("targets", nargs="*", default=NAMES)
    parser.add_argument("--runs", type=int, default=2000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=Path, help="a file that was found")
    parser.add_argument("--blind", action="store_true", help="chance alone, without atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.again:
        return again(chosen.targets[0], chosen.again)
    if chosen.child:
        return child(chosen.folder, chosen.targets[0], chosen)
    print(f"{datetime.now(UTC):%Y-%m-%d}\n| target | runs | seconds | outcomes | read | findings |")
    print("|---|---|---|---|---|---|")
    found = [drive(chosen.folder, name, chosen) for name in chosen.targets]
    return 1 if any(found) else 0


def drive(folder: Path, name: str, chosen: argparse.Namespace) -> int:
    """Run a target in processes of its own until it has had its runs; the number of findings."""
    here = folder / name
    here.mkdir(parents=True, exist_ok=True)
    for old in here.iterdir():
        old.unlink()
    began, done, crashes, runs = time.monotonic(), 0, 0, chosen.runs
    while done < runs and crashes < MAX_CRASHES:
        arguments = [str(folder), name, "--child", "--runs", str(runs - done)]
        arguments += ["--seed", str(chosen.seed + crashes), *["--blind"][: chosen.blind]]
        command = [sys.executable, __file__, *arguments]
        with tempfile.TemporaryDirectory(dir=_fast()) as scratch, (here / "log").open("ab") as log:
            inherited = {**os.environ, "TMPDIR": scratch}  # atheris leaves without tidying up
            ended = subprocess.run(command, stdout=log, stderr=log, env=inherited, check=False)
        if ended.returncode == 0:  # atheris leaves without a word
            done = runs
            break
        crashes += 1
        done += json.loads((here / "runs").read_text()) if (here / "runs").exists() else 0
        (here / "runs").unlink(missing_ok=True)
        if (here / "last").exists():
            (here / "last").rename(here / f"crash-{crashes}")
    for name_of_scratch in ("last", "runs"):
        (here / name_of_scratch).unlink(missing_ok=True)
    told = set((here / "outcomes").read_text().splitlines()) if (here / "outcomes").exists() else ()
    findings = crashes + len(list(here.glob("finding-*")))
    read = sum(word.startswith("read") for word in told)
    spent = time.monotonic() - began
    print(f"| {name} | {done:,} | {spent:.0f} | {len(told)} | {read} | {findings} |", flush=True)
    return findings


class Watched:
    """A target that notes what comes of its inputs, in files that outlive a crash."""

    def __init__(self, target: Any, here: Path, scratch: Path) -> None:
        self.target, self.here, self.scratch = target, here, scratch
        self.told, self.runs = set[str](), 0

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        (self.here / "last").write_bytes(data)
        if self.runs % 50 == 0:
            (self.here / "runs").write_text(str(self.runs))
        try:
            word = self.target.run(data, self.scratch)
        except Exception as error:
            word = self._finding(error, data)
        if word not in self.told:
            self.told.add(word)
            with (self.here / "outcomes").open("a") as file:
                file.write(" ".join(word.split()) + "\n")

    def _finding(self, error: Exception, data: bytes) -> str:
        """Keep the input and where it failed, once for each place."""
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if "nucleiflow" in f.filename
        ]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        word = f"finding: {type(error).__name__} {place}"
        if word not in self.told:
            name = hashlib.sha256(word.encode()).hexdigest()[:8]
            (self.here / f"finding-{name}").write_bytes(data)
            (self.here / f"why-{name}").write_text("".join(traceback.format_exception(error)))
        return word


def child(folder: Path, name: str, chosen: argparse.Namespace) -> int:
    """Run one target in this process."""
    if chosen.blind:
        import targets
    else:
        import atheris

        only = ["nucleiflow", "tifffile", "PIL"]
        with atheris.instrument_imports(include=only, enable_loader_override=False):
            import targets
    target, scratch = targets.TARGETS[name], Path(tempfile.mkdtemp())
    for part in ("made", "files", "corpus"):
        (scratch / part).mkdir()
    seeds = target.seeds(scratch / "made")
    for data in seeds:
        if not (word := target.run(data, scratch / "files")).startswith("read"):
            raise SystemExit(f"a seed of {name} is not read: {word}")
    limit()
    watched = Watched(target, folder / name, scratch / "files")
    (blind if chosen.blind else guided)(watched, seeds, scratch / "corpus", chosen)
    return 0


def worse(target: Any, data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = target.mutate(data, rng)
    return data


def blind(watched: Watched, seeds: list[bytes], _: Path, chosen: argparse.Namespace) -> None:
    for number in range(chosen.runs):
        rng = random.Random(f"{chosen.seed} {number}")
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        watched(worse(watched.target, rng.choice(seeds), rng))
        faulthandler.cancel_dump_traceback_later()


def guided(watched: Watched, seeds: list[bytes], corpus: Path, chosen: argparse.Namespace) -> None:
    """What reaches new lines of code is changed further."""
    import atheris

    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)

    def mutate(data: bytes, size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.2:
            return atheris.Mutate(data, size)
        return worse(watched.target, data, rng)[:size]

    arguments = [
        "fuzz", str(corpus), f"-runs={chosen.runs}", f"-seed={chosen.seed}", f"-timeout={SECONDS}",
        f"-max_len={max(watched.target.max_bytes, *map(len, seeds))}", "-rss_limit_mb=0",
        f"-artifact_prefix={watched.here}/artifact-", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup(arguments, watched, custom_mutator=mutate)
    atheris.Fuzz()


def limit() -> None:
    """Little more memory than now: a bomb ends in a MemoryError, which is a finding."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def again(name: str, file: Path) -> int:
    import targets

    with tempfile.TemporaryDirectory() as scratch:
        limit()
        print(targets.TARGETS[name].run(file.read_bytes(), Path(scratch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
