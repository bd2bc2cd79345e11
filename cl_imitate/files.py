"""Small files that are replaced whole, and read with errors that name the file and what to do."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any


def read_json(
    file: pathlib.Path, *, whose: str, fix: str, kind: type = dict, keys: Sequence[str] = ()
) -> Any:
    """What a file holds: a `kind`, with these keys.

    Raises:
      ValueError: it is missing, cut off, or something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing. {fix}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or not {whose} ({error}). {fix}") from error
    lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
    if not isinstance(value, kind) or lacking:
        why = f"it lacks {', '.join(lacking)}" if lacking else f"it holds a {type(value).__name__}"
        raise ValueError(f"{file} is damaged, or not {whose} ({why}). {fix}")
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """A JSON file, replaced whole."""
    replace_text(path, json.dumps(value, indent=1) + "\n")


def replace_text(path: pathlib.Path, text: str) -> None:
    """A text file, replaced whole: a reader finds the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
