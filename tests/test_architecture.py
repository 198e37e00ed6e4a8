"""The layers of DESIGN.md: imports point downward, and each heavy library has one door."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nucleiflow

PACKAGE = Path(nucleiflow.__file__).parent
ROOT = PACKAGE.parent
LAYERS = (
    "__init__ errors box arrays heap complaint config snapshot place credentials",
    "slide receptive plan normalise stain tissue seeds merge grow pyramid augment metrics overlay "
    "demo ngff model job estimate resolution resample settings graph contract cost scores page "
    "card cardpage manifest plainyaml roster diagnosis digest provenance slots "
    "stream kernels naming measure neighbours tracing outline qupath reportpage batchpage charts "
    "contours jsontext nearby counts strips "
    "fields deepzoom sketch remarks audit focus quality spatialmeta kept ycbcr "
    "coded pixelwise runwise islands lines runs region geojson",
    "objects records speeds forgetful deflate",
    "dicom formats companions chunks memory tiffcheck tiffmeta tiffread",
    "tiff openslide picture store inference gpus slurm pool warm progress fetch tables "
    "anndata_zarr",
    "source identity cluster kinds crew shape secure checkup doctor tasks look flow batch forecast "
    "show showcase train classic layouts dataset evaluate describe weakspots lock status jobfile "
    "holes rerun report verify overview survey runfile recompute integrity spatial viewer api "
    "results export finished linked pixels maps labelled regions ready preloaded unet",
    "cli runcommands askcommands resultcommands modelcommands options answer __main__",
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
COMMAND_MODULES = ("runcommands", "askcommands", "resultcommands", "modelcommands")
FRIENDS_ALLOWED = {0, 1, 2, 3, 5, 6}  # layers whose modules may import each other
DOORS = {
    "tensorflow": {"inference", "train"},
    "keras": {"inference", "unet", "train"},
    "dask": {"cluster", "forgetful"},
    "distributed": {"cluster", "kinds", "crew", "secure", "slurm", "forgetful", "preloaded"},
    "dask_jobqueue": {"slurm"},
    "pynvml": {"gpus"},
    "zarr": {"store", "anndata_zarr", "chunks"},
    "obstore": {"objects"},
    "tifffile": {"tiff", "tiffcheck", "tiffmeta", "tiffread"},
    "PIL": {"picture", "api"},
    "pandas": {"tables", "api"},
    "numba": {"kernels"},
    "shapely": {"outline", "qupath", "tables"},
    "napari": {"viewer"},
    "openslide": {"openslide"},
    "pyarrow": {"tables", "spatial"},
    "rich": {"progress"},
    "imagecodecs": {"deflate", "chunks"},
    "typer": {"cli", *COMMAND_MODULES, "options", "answer"},
    "click": {"cli"},
}
# imported inside functions only
LATE = {
    *("tensorflow", "keras", "dask", "distributed", "dask_jobqueue", "pynvml", "obstore"),
    *("numba", "pyarrow", "shapely", "pandas", "napari", "openslide"),
}
COMPILED = {
    "kernels",
    "pixelwise",
    "runwise",
    "islands",
    "lines",
    "tracing",
    "contours",
    "jsontext",
    "nearby",
}  # imported inside functions only
SCIENCE = {"scipy", "skimage", "numba"}  # for layer 1, where arrays go in and out, and the data set
MODULES = sorted(PACKAGE.glob("*.py"))
TREES = {path.stem: ast.parse(path.read_text()) for path in MODULES}
COMMANDS = (
    *("run", "submit", "status", "rerun", "verify", "formats", "info", "plan", "doctor", "overlay"),
    *("export", "view"),
    *("train", "evaluate", "fetch", "model", "demo"),
)
MACHINE_PATH = re.compile(r"(?<![\w.<>)}\]*$~-])/(?:home|Users|root|work|scratch)/\w")


def imported(node):
    """Dotted names that an import statement may load; `from a import b` may load a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name the package"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports(module):
    return [name for node in ast.walk(TREES[module]) for name in imported(node)]


def at_once(body):
    """Imports that run when the module is imported: those outside functions."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(node)
            yield from at_once(ast.iter_child_nodes(node))


def neighbours(module):
    """Modules of the package that a module imports; the package's own face leads to all."""
    if module == "__init__":
        return set()
    parts = [name.split(".") for name in imports(module)]
    ours = {part[1] for part in parts if part[0] == "nucleiflow" and len(part) > 1}
    return {name if name in TREES else "__init__" for name in ours}


def test_every_module_has_a_layer():
    assert set(TREES) <= set(LAYER)


@pytest.mark.parametrize("module", TREES)
def test_imports_point_downward(module):
    own = LAYER[module]
    for other in neighbours(module):
        assert LAYER[other] <= own, f"{module} imports {other}, which is above it"
        if LAYER[other] == own:
            friends = own in FRIENDS_ALLOWED or module == "__main__"
            assert friends, f"{module} imports its peer {other}"


def test_no_module_imports_itself_by_a_detour():
    known = {}

    def below(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in known:
            known[module] = {
                far for near in neighbours(module) for far in below(near, [*path, module])
            }
        return {module} | known[module]

    for module in TREES:
        below(module, [])


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_one_door(library):
    users = {
        module for module in TREES for name in imports(module) if name.split(".")[0] == library
    }
    assert users <= DOORS[library]


@pytest.mark.parametrize("module", TREES)
def test_slow_libraries_are_imported_inside_functions(module):
    names = [name.split(".") for name in at_once(TREES[module].body)]
    slow = {name[0] for name in names} & LATE
    late = {name[1] for name in names if name[0] == "nucleiflow" and len(name) > 1} & COMPILED
    assert not (slow | late) or module in COMPILED


@pytest.mark.parametrize("module", TREES)
def test_only_pure_modules_do_science(module):
    used = {name.split(".")[0] for name in imports(module)} & SCIENCE
    assert not used or LAYER[module] == 1 or module == "classic"


@pytest.mark.parametrize("module", [name for name in TREES if LAYER.get(name, 0) < 2])
def test_pure_modules_open_no_slides_and_start_no_processes(module):
    doors = DOORS.keys() - SCIENCE - {"shapely"}
    heavy = {name.split(".")[0] for name in imports(module)} & {*doors, "subprocess", "shutil"}
    assert not heavy


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_first_line_says_which_arrow_of_the_data_flow_the_file_is(path):
    first = path.read_text().split("\n", 1)[0]
    assert first.startswith('"""')
    assert ast.get_docstring(TREES[path.stem])
    assert len(first) > 20


def test_the_command_line_starts_light():
    heavy = [*DOORS.keys() - {"typer", "click", "rich"}, "numpy", "scipy", "skimage", "pydantic"]
    code = f"import sys, nucleiflow.cli; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_has_help(command):
    arguments = [command, "--help"] if command else ["--help"]
    done = subprocess.run(
        [sys.executable, "-m", "nucleiflow", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    )
    assert done.stderr == ""
    described = ast.get_docstring(_functions()[command]) if command else ""
    assert described.split("\n")[0].split(".")[0] in done.stdout
    if command is None:
        assert all(re.search(rf"^\W*{name}\s+\w", done.stdout, re.MULTILINE) for name in COMMANDS)
        assert set(COMMANDS) == set(_functions()), "a command without a test of its help"


def _functions():
    return {
        node.name.removesuffix("_command"): node
        for module in COMMAND_MODULES
        for node in TREES[module].body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_command")
    }


def test_no_file_knows_the_machine_it_was_written_on():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git repository here: {error}")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert ROOT / "pyproject.toml" in files
    guilty = []
    for file in files:
        if not file.is_file() or b"\0" in file.read_bytes()[:4096]:
            continue
        lines = enumerate(file.read_text(errors="replace").splitlines(), start=1)
        guilty += [f"{file.name}:{n}: {line}" for n, line in lines if MACHINE_PATH.search(line)]
    assert not guilty


@pytest.mark.parametrize(
    ("line", "is_guilty"),
    [
        ("open('/" + "home/ann/slides/a.svs')", True),
        ("cd /" + "work/main", True),
        ("OUT/slide/work/records", False),
        ("{out}/work/records/0.rec", False),
        ("https://example.org/home/page", False),
        ("/scratch/$USER", False),
    ],
)
def test_machine_paths_are_told_from_others(line, is_guilty):
    assert bool(MACHINE_PATH.search(line)) == is_guilty
