"""What tells whether a file is still the one that was written."""

import hashlib
import pathlib


def sha256(file: pathlib.Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
