"""What `show` prints of a run's folder."""

import re

import pytest

from cl_imitate import show
from cl_imitate.files import write_json


def test_a_folder_and_reasons_with_brackets_are_shown_as_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    path = tmp_path / "[old] runs"
    path.mkdir()
    write_json(path / "manifest.json", {"stages": {}})
    decided = {
        "void": ["evaluation.stage_steps = [/bold] is odd"],
        "questions": {},
        "gate": {"passed": None},
    }
    write_json(path / "verdict.json", decided)
    show.show(path)
    shown = capsys.readouterr().out
    assert "[old] runs  no stage has finished" in shown
    assert "VOID evaluation.stage_steps = [/bold] is odd" in shown
    assert "[old] runs/report/index.html" in shown


@pytest.mark.parametrize(
    "decided", [{}, [], {"void": [], "questions": {}}, {"void": [], "questions": [], "gate": {}}]
)
def test_a_verdict_that_lacks_something_is_named_with_the_fix(tmp_path, decided):
    write_json(tmp_path / "manifest.json", {"stages": {}})
    write_json(tmp_path / "verdict.json", decided)
    told = rf"verdict.json is damaged.*report --again --run-dir {re.escape(str(tmp_path))}`"
    with pytest.raises(ValueError, match=told):
        show.show(tmp_path)


def test_a_question_without_a_plain_answer_is_shown_with_its_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_json(tmp_path / "manifest.json", {"stages": {}})
    asked = {"estimate": 0.1, "ci95": [0.0, 0.2], "predicted": "no", "meaning": "m"}
    reasons = {
        "now": ("yes", None),
        "later": ("void", "the learner gains [/too] little"),
        "month": ("not run", "no stage was asked"),
    }
    questions = {
        name: {**asked, "question": f"{name}?", "answer": answer, "reason": reason}
        for name, (answer, reason) in reasons.items()
    }
    write_json(tmp_path / "verdict.json", {"void": [], "questions": questions, "gate": {"passed": True}})
    show.show(tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if " is " in line]
    assert told == ["LATER is void: the learner gains [/too] little"]
