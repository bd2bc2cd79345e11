"""From a TOML file and overrides to a checked `Experiment`, with errors a person can act on."""

import dataclasses
import difflib
import hashlib
import json
import pathlib
import sys
import tomllib
import types
import typing
from typing import Any

import pydantic
import tomli_w

from cl_imitate import config, statistics
from cl_imitate.check_config import check
from cl_imitate.files import read_json

_EXPERIMENT = pydantic.TypeAdapter(config.Experiment)
_OPENING = ("[", "{", '"', "'")
"""What a value in TOML begins with that no bare word does."""
_TYPES = {
    "a valid array": "a list, such as [1, 2]",
    "an object": "a table, such as {key = value}",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
}
"""What pydantic calls a type, in the words of TOML."""


def find(name: str, *, beside: pathlib.Path) -> pathlib.Path:
    """A config file by name: in the folder `beside`, else among the configs that come with the package.

    Raises:
      ValueError: it is in neither.
    """
    package = pathlib.Path(__file__).parent
    folders = (beside, package / "configs", package.parent / "configs")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"the config file {name} is not in {' nor in '.join(map(str, folders))}. Give its path.")


def load(path: pathlib.Path, overrides: tuple[str, ...] = ()) -> config.Experiment:
    """Read a config file; each override is "dotted.key=value", the value in TOML or a bare word.

    A file may begin with `base = "other.toml"`: it then changes that one's values.

    Raises:
      ValueError: the file or an override is wrong; the message names the key and the fix.
    """
    values = load_values(path, overrides)
    if "sweep" in values:
        raise ValueError(f"{path} has a [sweep], so it is many runs. Start them: `cl-imitate sweep {path}`.")
    return build(values, origin=" --set ".join((str(path), *overrides)))


def load_of_run(path: pathlib.Path) -> config.Experiment:
    """The configuration in a run's folder; a warning where it is not the one that the manifest names.

    Raises:
      ValueError: it, or the manifest, is damaged.
    """
    experiment = load(path / "config.toml")
    own = fingerprint(experiment)
    if (was := str(manifest_of_run(path).get("fingerprint", own))) != own:
        print(
            f"warning: {path / 'config.toml'} has the fingerprint {own[:12]}, its run {was[:12]}: altered since, or "
            "written by another version",
            file=sys.stderr,
        )
    return experiment


def load_values(path: pathlib.Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The same, as plain values that are not checked yet. Raises ValueError: not readable."""
    values = _read(path)
    for override in overrides:
        override_value(values, override)
    return values


def build(values: dict[str, Any], *, origin: str) -> config.Experiment:
    """A checked experiment from plain values."""
    try:
        # by way of JSON: strict about types there, and an array may still become a tuple
        experiment = _EXPERIMENT.validate_json(json.dumps(values, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise ValueError(f"{origin}: {_explain(error)}") from error
    _check_registered(experiment, origin=origin)
    check(experiment, origin=origin)
    return experiment


def manifest_of_run(path: pathlib.Path) -> dict[str, Any]:
    """What a run's folder says of itself, for who only reads it; {} where it has none. Raises ValueError: damaged."""
    manifest = path / "manifest.json"
    fix = "Leave this run out, or make it again in another folder."
    return read_json(manifest, whose="a run's", fix=fix) if manifest.is_file() else {}


def dump(experiment: config.Experiment) -> str:
    """The resolved configuration as TOML. Nulls are left out."""
    return tomli_w.dumps(_without_none(dataclasses.asdict(experiment)))


def fingerprint(experiment: config.Experiment) -> str:
    """SHA-256 of the canonical form: every field, sorted, defaults included (and `fork` where there is one)."""
    values = dataclasses.asdict(experiment)
    if experiment.fork is None:
        del values["fork"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def rules_sha256(experiment: config.Experiment) -> str:
    """SHA-256 of all that decides: the rules, the gate's bounds, and how intervals are made."""
    gate = {key: value for key, value in dataclasses.asdict(experiment.gate).items() if key != "experiment"}
    decides = {
        "rules": dataclasses.asdict(experiment.rules),
        "gate": gate,
        "interval": statistics.INTERVAL,
    }
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_registered(experiment: config.Experiment, *, origin: str) -> None:
    if experiment.rules_sha256 not in (None, rules_sha256(experiment)):
        raise ValueError(
            f"{origin}: rules_sha256 = {experiment.rules_sha256!r}, but the rules, the gate's bounds and the way of "
            f"making intervals have {rules_sha256(experiment)}. Usual cause: a rule was changed after it was "
            "registered. Change it back, or register anew, and say so"
        )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _read(path: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}). Give the path of a config file."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8, which TOML is written in ({error}). Save it as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f'{path}: base = {base!r} is not a file name, for example base = "quickstart.toml"')
    here = path.resolve()
    if here in above:
        raise ValueError(f"{path}: base = {base!r} leads back to this file. Remove one of the bases.")
    try:
        found = find(base, beside=path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: base = {base!r}: {error}") from error
    return _merge(_read(found, (*above, here)), values)


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        same_family = not (isinstance(value, dict) and isinstance(old, dict)) or value.get(
            "family", old.get("family")
        ) == old.get("family")
        merged[key] = (
            _merge(old, value) if isinstance(value, dict) and isinstance(old, dict) and same_family else value
        )
    return merged


def override_value(values: dict[str, Any], override: str) -> None:
    """Put what one --set says, "dotted.key=value", into plain values; a table changes what it names alone."""
    key, value = _option(override, origin="--set", example="training.num_seeds=5")
    if key == "base":
        raise ValueError(f"--set {override!r}: a base stands in a file. Write one that begins with it.")
    set_value(values, key, value, origin=f"--set {override!r}")


def options(given: tuple[str, ...], *, origin: str) -> dict[str, Any]:
    """Options as overrides are written, "key=value". Raises ValueError: one is not."""
    return dict(_option(one, origin=origin, example="timeout_min=60") for one in given)


def _option(text: str, *, origin: str, example: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"{origin} {text!r}: write it as key=value, for example {origin} {example}")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError as error:
        if value.strip()[:1] in _OPENING:
            raise ValueError(
                f"{origin} {text!r}: {value.strip()} is not a value in TOML ({error})"
            ) from error
        return key.strip(), value.strip()
    if len(parsed) > 1:
        raise ValueError(f"{origin} {text!r}: more than one value. Repeat {origin} for another.")
    return key.strip(), parsed["value"]


def set_value(values: dict[str, Any], key: str, value: Any, *, origin: str) -> None:
    """Put a value in the place of a dotted key; a table goes into the one that is there, as a file into its base.

    Raises:
      ValueError: a part of the key is no table.
    """
    *parents, last = key.split(".")
    table = values
    for index, name in enumerate(parents):
        table = table.setdefault(name, {})
        rest = ".".join(parents[: index + 1])
        if not isinstance(table, dict) or (*parents, last)[index + 1].isdigit():
            raise ValueError(f"{origin}: {rest} is not a table. A list is given whole: --set '{rest}=[...]'")
    table |= _merge(table, {last: value})


def _explain(error: pydantic.ValidationError) -> str:
    """The first problem in one line: dotted key, what was given, what is allowed."""
    problem = error.errors()[0]
    where, inside = _followed(problem["loc"])
    dotted = ".".join(where)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [field.name for field in dataclasses.fields(inside)]
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {dotted} ({hint})"
    if problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"the key {dotted} is missing"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        families = [option.family for option in _options(typing.get_type_hints(inside)[where[-1]])]
        given = problem["input"].get("family")
        near = difflib.get_close_matches(str(given), families, n=1)
        hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(families)}"
        told = "is missing" if given is None else f"= {given!r} is not one"
        return f"{dotted}.family {told} ({hint})"
    # What may be one thing or another has a problem with each.
    allowed = [_in_words(one["msg"]) for one in error.errors() if _followed(one["loc"])[0] == where]
    told = ", or ".join([allowed[0], *(one.removeprefix("Input should be ") for one in allowed[1:])])
    return f"{dotted} = {problem.get('input')!r}: {told[0].lower()}{told[1:]}"


def _in_words(message: str) -> str:
    for theirs, ours in _TYPES.items():
        message = message.replace(theirs, ours)
    return message


def _followed(location: tuple[int | str, ...]) -> tuple[list[str], type]:
    """The keys that lead to a validation error, and the dataclass that the last of them is, or should be, a field of.

    Pydantic's location also says which of several alternatives was tried; that is no key.
    """
    keys, inside, current = [], config.Experiment, config.Experiment
    for part in location:
        options = _options(current)
        if isinstance(part, int):
            keys.append(str(part))
        elif len(options) == 1:
            keys.append(part)
            [inside] = options
            current = typing.get_type_hints(inside).get(part)
        else:  # an environment's family, or "int" or "str" of a key that may be both
            current = next((one for one in options if getattr(one, "family", None) == part), None)
    return keys, inside


def _options(annotation: Any) -> list[type]:
    """Every dataclass inside an annotation such as `A | B | None` or `tuple[A, ...]`."""
    if dataclasses.is_dataclass(annotation):
        return [typing.cast(type, annotation)]
    inner = typing.get_args(annotation)
    is_nested = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None
    return [option for part in inner for option in _options(part)] if is_nested else []
