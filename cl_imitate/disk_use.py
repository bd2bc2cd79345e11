"""What a run's folder takes on the disk, part by part."""

import contextlib
import os
import pathlib

PARTS = {
    "histories": "histories",
    "learners' snapshots": "checkpoints/learners",
    "imitators": "checkpoints/imitators",
    "imitators of lowest held-out loss": "checkpoints/best_imitators",
    "evaluation": "evaluation",
    "saves to go on from": "resume",
    "gate (a run of its own)": "gate",
    "report": "report",
}


def num_bytes(path: pathlib.Path) -> int:
    """What the files at or under a path hold; 0 if there is nothing."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run under way removes what it no longer needs
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def disk_use(path: pathlib.Path) -> dict[str, int]:
    """Bytes of each part of a run's folder, of what else is there, and of all of it."""
    parts = {name: num_bytes(path / part) for name, part in PARTS.items()}
    whole = num_bytes(path)
    return {**parts, "everything else": whole - sum(parts.values()), "in all": whole}


def megabytes(count: int) -> str:
    """1234567 -> 1.2 MB."""
    return f"{count / 1e6:,.1f} MB"
