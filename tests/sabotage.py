"""Things that go wrong in worker processes, for real: death, want of memory, errors.

`environment(folder, "segment", 5, "kill", times=2)` makes every Python process that is started with
it do the deed when it comes to that tile, so many times in all. Tasks are those of `tasks`, unless
their module is named, as in "results.met".
"""

import os
from pathlib import Path

HOOK = '''
import os, signal, sys
from pathlib import Path

def deed():
    name = os.environ["SABOTAGE_DEED"]
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(b"1") * (32 << 20))
    if name == "starve":
        raise MemoryError("cannot allocate")
    raise OSError(5, "Input/output error", "the disk")

def sabotaged(work):
    import functools
    chosen, most = int(os.environ["SABOTAGE_TILE"]), int(os.environ["SABOTAGE_TIMES"])
    folder = Path(os.environ["SABOTAGE_FOLDER"])

    @functools.wraps(work)
    def instead(*arguments, **options):
        attempts = len(list(folder.glob("attempt-*")))
        if arguments[-1] == chosen and attempts < most:
            (folder / f"attempt-{attempts}-{os.getpid()}").touch()
            deed()
        return work(*arguments, **options)

    return instead

class Finder:
    """Finds modules as ever, and changes one task once its module is loaded."""

    def find_spec(self, name, path=None, target=None):
        module, _, task = os.environ["SABOTAGE_TASK"].rpartition(".")
        if name != f"nucleiflow.{module or 'tasks'}":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)))
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            setattr(module, task, sabotaged(getattr(module, task)))

        spec.loader.exec_module = load_and_change
        return spec

sys.meta_path.insert(0, Finder())
'''


def environment(folder, task, tile, deed, times=1_000_000):
    """Variables of a process whose `task` of one tile fails; attempts leave files in `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "SABOTAGE_FOLDER": str(folder),
        "SABOTAGE_TASK": task,
        "SABOTAGE_TILE": str(tile),
        "SABOTAGE_DEED": deed,
        "SABOTAGE_TIMES": str(times),
    }


def attempts(folder):
    """How often the deed was done."""
    return len(list(Path(folder).glob("attempt-*")))
