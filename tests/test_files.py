"""Every way in which a file can be wrong is told with the file and the fix."""

import re

import pytest

from cl_imitate.files import read_json


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "x.json is missing. Mend it."),
        ('{"a": ', "x.json is damaged, or not mine (Expecting value"),
        ("[]", "x.json is damaged, or not mine (it lacks a). Mend it."),
        ('{"b": 1}', "(it lacks a). Mend it."),
    ],
)
def test_what_cannot_be_used_is_named_with_the_fix(tmp_path, content, told):
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(told)):
        read_json(file, whose="mine", fix="Mend it.", keys=["a"])


def test_another_kind_of_value_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x.json is damaged, or not mine \(it holds a dict\)"):
        read_json(tmp_path / "x.json", whose="mine", fix="Mend it.", kind=list)
    (tmp_path / "x.json").write_text("[1]")
    assert read_json(tmp_path / "x.json", whose="mine", fix="Mend it.", kind=list) == [1]
