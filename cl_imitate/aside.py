"""What a stage that is to be done again had left in a run's folder: set aside, put back where it cannot be done."""

import pathlib
import shutil
from collections.abc import Iterable

NAME = ".before-again"
_COPIED = ("manifest.json", "metrics.jsonl")  # they go on being written to


def begin(folder: pathlib.Path) -> None:
    """Room to set things aside, and copies of what stays in its place too; what lay aside before is dropped."""
    drop(folder)
    (folder / NAME).mkdir()
    for name in _COPIED:
        if (folder / name).exists():
            shutil.copyfile(folder / name, folder / NAME / name)


def move(folder: pathlib.Path, name: str) -> None:
    """Set a file or folder aside, at once."""
    if (folder / name).exists():
        place = folder / NAME / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(place)


def put_back(folder: pathlib.Path, *, made: Iterable[str], moved: Iterable[str]) -> None:
    """All that was set aside in its place again: of a stage, instead of what it has `made` since, and what else was
    `moved`; then the manifest that tells of it, and last the verdict, by which a folder is read."""
    for name in made:
        remove(folder / name)
    for name in (*made, *moved, *reversed(_COPIED), "report", "verdict.json"):
        if (folder / NAME / name).exists():
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / NAME / name).replace(folder / name)
    drop(folder)


def drop(folder: pathlib.Path) -> None:
    """What lies aside is not needed any more."""
    shutil.rmtree(folder / NAME, ignore_errors=True)


def remove(path: pathlib.Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
