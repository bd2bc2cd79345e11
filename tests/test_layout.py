"""The rooms and their ranks, as the picture in the README draws them: a file imports only lower ranks."""

import ast
import pathlib
import re
import subprocess
import sys
from importlib import metadata

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RANKS = """
0: types keys config statistics products convolution compiling interruption checksum circumstances start_jax
0: processes causes commands disk_use files differences
1: envs/base envs/tabular envs/splits learners/td learners/replay learners/q_networks histories/* imitators/base
1: envs/minatar/* evaluation/metrics evaluation/comparisons evaluation/results load_config check_config
1: check_controls check_training checkpoint
1: run_dir open_run aside attempt progress sharding
1: blocks seating optimiser
1: evaluation/needed evaluation/trained evaluation/horizon evaluation/longer evaluation/moved evaluation/findings
1: evaluation/shown
2: envs/* learners/* imitators/* figures/* keeper trainees
3: envs/tasks simulate train cost imitators/learner_posterior executed
4: evaluation/protocols evaluation/answers evaluation/entries evaluation/gate evaluation/wording
4: evaluation/distances evaluation/lead populations spread visibility
5: evaluation/* block_size report
6: feeds show compare excess evaluation/controls/*
7: stages/*
8: sweeps/*
9: cli
10: __main__
"""
RANK = {
    name: int(line.split(":")[0])
    for line in RANKS.strip().splitlines()
    for name in line.partition(":")[2].split()
}
SEES_HISTORIES_ONLY = {"imitators/make", "imitators/transformer", "imitators/recurrent", "train"}
ONE_HOME = {"gymnax", "orbax", "matplotlib", "pyarrow"}
HOME_ROOMS = {"figures"}  # rooms that are one home as a whole
# Tests of more than one module; every other test_<name>.py is named after a module, or after a room.
WIDE_TESTS = {
    "layout",
    "calibration",
    "configs",
    "contract",
    "parity",
    "pipeline",
    "probes",
    "smoke",
    "scripts",
    "resume",
}

FILES = {
    path.relative_to(ROOT / "cl_imitate").with_suffix("").as_posix(): ast.parse(path.read_text())
    for path in sorted((ROOT / "cl_imitate").rglob("*.py"))
}
PACKAGES = {name.removesuffix("__init__").strip("/") for name in FILES if name.endswith("__init__")}
MODULES = [name for name in FILES if not name.endswith("__init__")]


def imported(name: str) -> set[str]:
    """Dotted names of everything a file imports, wherever in the file; relative imports made absolute."""
    found = set()
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["cl_imitate", *name.split("/")][: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def own(name: str) -> set[str]:
    """The modules of the package that a file imports."""
    paths = {dotted.replace(".", "/").removeprefix("cl_imitate/") for dotted in imported(name)}
    return (paths | {path.rpartition("/")[0] for path in paths}) & set(MODULES)


def reachable(name: str) -> set[str]:
    seen, left = set(), [name]
    while left:
        new = own(left.pop()) - seen
        seen |= new
        left += new
    return seen


def room(name: str) -> str:
    return name.rpartition("/")[0]


def rank(name: str) -> int:
    where = RANK.get(name, RANK.get(f"{room(name)}/*"))
    assert where is not None, (
        f"{name} has no rank: give it one in {__file__}, and a place in the README's picture"
    )
    return where


@pytest.mark.parametrize("name", MODULES)
def test_a_file_imports_only_lower_ranks_or_its_own_room_without_circles(name):
    for other in own(name):
        assert rank(other) < rank(name) or (rank(other) == rank(name) and room(other) == room(name)), other
    assert name not in reachable(name), "a circle of imports"


def test_packages_import_nothing_of_ours():
    assert not [name for name in FILES if name.endswith("__init__") and own(name)]


@pytest.mark.parametrize("name", sorted(SEES_HISTORIES_ONLY & set(MODULES)))
def test_the_imitator_sees_histories_only_directly_and_through_others(name):
    assert not [other for other in reachable(name) if room(other) in {"envs", "learners"}]


@pytest.mark.parametrize("library", sorted(ONE_HOME))
def test_a_library_with_a_moving_interface_has_one_home(library):
    files = [name for name in FILES if any(dotted.split(".")[0] == library for dotted in imported(name))]
    homes = {room(name) if room(name) in HOME_ROOMS else name for name in files}
    assert len(homes) <= 1, homes


def test_every_library_that_is_imported_is_a_declared_dependency():
    declared = {
        re.match(r"[\w.-]+", line)[0].lower()
        for line in metadata.requires("cl-imitate")
        if "extra ==" not in line
    }
    homes = metadata.packages_distributions()
    libraries = {dotted.split(".")[0] for name in FILES for dotted in imported(name)}
    libraries -= {*sys.stdlib_module_names, "cl_imitate"}
    assert not [
        library
        for library in libraries
        if not declared & {home.lower().replace("_", "-") for home in homes.get(library, [])}
    ]


def test_modules_have_a_docstring_and_a_name_that_says_what_is_inside():
    assert not [name for name in MODULES if not ast.get_docstring(FILES[name])]
    assert not [name for name in FILES if re.search(r"\b(utils?|misc|common|helpers?)\b", name)]


def test_each_test_file_is_named_after_what_it_tests():
    names = {name.replace("/", "_") for name in [*MODULES, *PACKAGES]} | {
        name.split("/")[-1] for name in MODULES
    }
    stems = [path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")]
    assert not [stem for stem in stems if stem not in names | WIDE_TESTS]


def test_importing_the_package_does_not_touch_the_configuration_of_jax():
    code = f"""
import importlib, jax
before = dict(jax.config.values)
for name in {[name for name in MODULES if name != "__main__"]}:
    importlib.import_module("cl_imitate." + name.replace("/", "."))
changed = [key for key, value in before.items() if jax.config.values[key] != value]
assert not changed, changed
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
