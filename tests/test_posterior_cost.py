"""Places in which a hypothesis costs the same share a line."""

import pytest

from cl_imitate.figures.posterior_cost import _lines, posterior_cost


def place(each: float, run: int) -> dict:
    costs = {"posterior": each * run, "learner": 40.0, "transformer": 900.0}
    return {
        "num_hypotheses": run,
        "flops_per_step": costs,
        "bytes": costs,
        "hypotheses_at_transformer_flops": 900.0 / each,
    }


@pytest.mark.parametrize(
    ("room", "lines"),
    [(41.0, [("lock and room", 40.0)]), (80.0, [("lock", 40.0), ("room", 80.0)])],
)
def test_lines_that_would_hide_each_other_are_one_line_named_for_both(room, lines):
    assert _lines({"lock": place(40.0, 15), "room": place(room, 29)}, "bytes") == lines


def test_the_figure_speaks_of_the_learner_posterior():
    figure = posterior_cost({"places": {"lock": place(40.0, 15), "room": place(41.0, 29)}})
    assert figure is not None
    assert figure.title.startswith("What the learner posterior costs")
    assert posterior_cost({}) is None
