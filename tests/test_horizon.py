"""Sweeps whose break is known: where it is found, what is said to move it, and that open points count nowhere."""

import csv
import dataclasses
import io
import json
import pathlib
import re
from html import escape

import numpy as np
import pytest

from cl_imitate import load_config
from cl_imitate.config import Evaluation, Imitator, Lock, Rules, Simulation
from cl_imitate.evaluation import findings, horizon
from cl_imitate.evaluation.horizon import Imitated, Point, Shown
from cl_imitate.evaluation.longer import beside_longer
from cl_imitate.evaluation.moved import moved
from cl_imitate.evaluation.needed import Line, Needed
from cl_imitate.evaluation.shown import by_shown, settings
from cl_imitate.evaluation.trained import Trained
from cl_imitate.figures import canvas as canvas_lib
from cl_imitate.figures import horizon as figures_horizon
from cl_imitate.figures import movers as figures_movers
from cl_imitate.figures import needed_context, shares
from cl_imitate.figures import shown as figures_shown
from cl_imitate.files import write_json
from cl_imitate.sweeps import horizon as page
from cl_imitate.sweeps import horizon_page
from cl_imitate.sweeps import points as points_lib
from tests import synthetic

NOT_ASKED = Imitated(answer="void", share=None, ci95=(None, None), horizon_steps=640)
TAU = {8: 100.0, 16: 200.0, 32: 400.0}
CONTEXTS = (32, 128, 512, 1024)
VALUES = {
    "context": 32,
    "ring": 8,
    "room": None,
    "memory": "transformer",
    "updates": 1500,
    "width": 64,
    "layers": 2,
    "learners": 1500,
    "tasks": "one each",
    "pace": 2e-3,
    "epsilon": 0.1,
    "family": "lock",
    "symbols": "fixed",
    "growth": None,
    "seed": 0,
    "span": 1920,
    "rest": "a",
}


def point(share: float, *, converged: bool | None = True, window: float = 1.0, **values) -> Point:
    answer = "yes" if share > 0.6 else "no" if share < 0.05 else "partial"
    process = Imitated(
        answer=answer,
        share=share,
        ci95=(share - 0.05, share + 0.05),
        horizon_steps=1920,
        departure_steps=None if answer == "yes" else 320.0,
        departure_side=None if answer == "yes" else "behind",
        departure_is_resolved=True,
        window=window,
        ceiling=1.02,
    )
    own = VALUES | values
    return Point(
        name=str(values),
        values=own,
        training=Trained(converged=converged),
        later_training=Trained(converged=converged),
        tau_steps=TAU.get(own["ring"], 100.0),
        passes_gate=answer == "yes",
        process=process,
        later=NOT_ASKED,
    )


def grid(**shared) -> list[Point]:
    """The break lies at 1.28 time constants: between 32 and 128, at 256, at 512."""
    return [
        point(0.98 if context >= 1.28 * TAU[ring] else 0.01, ring=ring, context=context, **shared)
        for ring in TAU
        for context in CONTEXTS
    ]


def breaks(points) -> dict[int, Needed]:
    return {
        chain.rest["ring"]: horizon.needed_context(chain)
        for chain in horizon.chains(points, "context", least=1)
    }


def test_the_break_is_found_between_the_right_contexts():
    assert breaks(grid()) == {8: Needed(32, 128), 16: Needed(128, 512), 32: Needed(128, 512)}
    assert breaks([one for one in grid() if one.values["context"] > 128])[8] == Needed(None, 512)
    assert breaks([one for one in grid() if one.values["context"] < 512])[32] == Needed(128, None)


def test_a_yes_below_a_no_is_no_break():
    found = [point(0.98, context=32), point(0.01, context=128), point(0.98, context=512)]
    assert breaks(found) == {8: Needed(128, 512)}


@pytest.mark.parametrize("converged", [False, None])
def test_open_points_are_counted_nowhere(converged):
    closed = [point(0.01, context=32), point(0.98, context=512)]
    opened = [point(0.98, context=128, converged=converged), point(0.01, context=1024, converged=converged)]
    assert breaks(closed + opened) == breaks(closed) == {8: Needed(32, 512)}
    assert moved(closed + opened, "context") == moved(closed, "context")
    said = " ".join(findings.findings(closed + opened))
    assert "2 of 4 points are open" in said
    assert "2 of 4 points are converged by their own curves alone" in said
    assert "ring 8: not yet a yes at 32 (no, 0.01); a yes from 512 (yes, 0.98) on; 128 open; half of" in said


def trained(share: float, updates: int, loss: float | None, floor: float = 0.5, **values) -> Point:
    """A point that is converged by its own curve."""
    above = None if loss is None else loss - floor
    training = Trained(converged=True, held_out_loss=loss, above_floor=above)
    made = point(share, updates=updates, **values)
    return dataclasses.replace(made, training=training, later_training=training)


def test_a_point_is_open_where_a_longer_training_ends_lower_whatever_its_own_curve_says():
    short, middle, long = trained(0.03, 500, 0.9), trained(0.99, 2000, 0.6), trained(0.99, 8000, 0.599)
    found = beside_longer([short, middle, long], Rules())
    assert [one.is_closed for one in found] == [False, True, True]
    assert [one.counts_for("later") for one in found] == [False, True, True]
    for one, fall, finds_more in ((found[0], 0.301, True), (found[1], 0.001, False)):
        assert one.training.longer == (8000, pytest.approx(fall), finds_more)
    assert found[2].training.longer is None
    assert [one.training.told for one in found] == [
        "open: 8,000 updates end 0.3 nats lower",
        "converged: 8,000 updates find no more",
        "converged",
    ]
    rows = list(csv.DictReader(io.StringIO(page.to_csv(found))))
    assert [(row["converged"], row["closed"], row["longer_updates"]) for row in rows] == [
        ("True", "False", "8000"),
        ("True", "True", "8000"),
        ("True", "True", ""),
    ]
    memorised = beside_longer([short, middle, trained(0.03, 8000, 1.2)], Rules())
    assert [one.is_closed for one in memorised] == [False, True, True]
    assert memorised[0].training.longer == (2000, pytest.approx(0.3), True)
    said = " ".join(findings.findings(found))
    assert "1 of 3 points are converged beside another one" in said
    assert "1 of 3 points are converged by their own curves alone" in said
    assert "1 of 3 points are open: a longer training ends lower (so 1 of them)" in said
    assert "Gradient updates: moves the answer (1 of 1 comparison); at most from 0.03 at 500" in said


def test_only_a_training_of_twice_as_long_and_equal_in_all_else_is_held_beside_a_point():
    short = trained(0.03, 500, 0.9)
    others = [
        trained(0.99, 999, 0.6),
        trained(0.99, 2000, 0.6, context=512),
        trained(0.99, 2000, 0.6, seed=1),
        trained(0.99, 2000, None),
    ]
    assert beside_longer([short, *others], Rules())[0] == short
    assert beside_longer([trained(0.03, 500, None), trained(0.99, 2000, 0.6)], Rules())[0].is_closed
    rising = beside_longer([short, trained(0.03, 2000, 1.1)], Rules())[0]  # it memorises
    assert rising.is_closed
    assert rising.training.longer == (2000, pytest.approx(-0.2), False)


def test_a_point_that_no_longer_training_outdoes_is_closed_where_its_own_curve_could_not_tell():
    looks = dataclasses.replace(
        point(0.03, updates=500), training=Trained(converged=None, held_out_loss=0.9, above_floor=0.4)
    )
    assert not looks.is_closed
    assert beside_longer([looks, trained(0.03, 1000, 0.9)], Rules())[0].is_closed


def test_later_is_held_beside_a_longer_training_of_its_own_fork():
    def at(fork: int, updates: int, loss: float) -> Point:
        return dataclasses.replace(trained(0.98, updates, loss), later_values={"fork": fork})

    found = beside_longer([at(320, 500, 0.9), at(640, 2000, 0.6)], Rules())
    assert found[0].training.longer is not None
    assert found[0].later_training.longer is None


def test_a_slower_learner_of_the_same_task_is_told_apart_from_more_to_know():
    """The break follows the ring, never the learner's pace."""
    paces = (4e-3, 2e-3, 1e-3, 5e-4)
    points = [
        dataclasses.replace(
            point(0.98 if context >= 8 * ring else 0.01, ring=ring, context=context, pace=pace, span=3840),
            tau_steps=10.0 * ring * 2e-3 / pace,
        )
        for ring in (8, 16, 32)
        for pace in paces
        for context in (16, 32, 64, 128, 256)
    ]
    found = horizon.breaks(points)
    across, within = horizon.line(found), horizon.line(found, same_task=True)
    assert across.slope > 0.3
    assert within.slope == pytest.approx(0.0, abs=1e-9)
    assert within.slope_ci95[0] < 0.0 < within.slope_ci95[1]
    assert "Where the learner alone is slower, the task being the same, to the power" in " ".join(
        findings.findings(points)
    )
    assert needed_context.needed(found, far_steps=1e6) is not None


def test_the_line_has_the_slope_of_the_breaks():
    contexts = [2**power for power in range(4, 11)]
    points = [
        dataclasses.replace(
            point(0.98 if context >= tau else 0.01, ring=ring, context=context), tau_steps=float(tau)
        )
        for ring, tau in ((8, 48), (16, 96), (24, 192), (32, 384))
        for context in contexts
    ]
    found = horizon.breaks(points)
    line = horizon.line(found)
    assert len(found) == 4
    assert line.slope == pytest.approx(1.0)
    assert line.slope_ci95[0] < 1.0 < line.slope_ci95[1]
    said = " ".join(findings.findings(points))
    assert "to the power 1.00" in said
    assert "Tasks and slowness vary together" in said
    few = findings.findings([one for one in points if one.values["ring"] > 16])
    assert few[-1] == "No line is fitted: it needs three breaks, and two were found."


def test_what_moves_the_break_is_told_from_what_does_not():
    points = [
        point(0.98 if context >= 128 else 0.01, context=context, width=width, learners=learners)
        for context in (32, 128)
        for width in (32, 64)
        for learners in (128, 1500)
    ]
    few = [point(0.3, context=128, width=width, learners=16) for width in (32, 64)]
    found = {axis: moved(points + few, axis)[:3] for axis in ("context", "width", "learners")}
    assert found == {"context": (4, 4, 0), "width": (5, 0, 5), "learners": (4, 2, 2)}
    said = findings.findings(points + few)
    [width] = [one for one in said if one.startswith("Width")]
    assert "does not move the share by 0.2 (5 comparisons)" in width
    [learners] = [one for one in said if one.startswith("Recorded learners")]
    assert "moves the answer (2 of 4 comparisons); at most from 0.30 at 16 to 0.98 at" in learners


def test_answers_whose_intervals_overlap_move_nothing():
    wide = [point(0.55, context=32), point(0.62, context=128)]
    assert wide[0].process.answer != wide[1].process.answer
    assert moved(wide, "context").num_changed == 0


def test_intervals_that_overlap_do_not_show_that_nothing_moves():
    """A width that may lift the share from 0.04 by anything up to 2.9 is not seen to move it; no more is known."""
    narrow = [point(0.98, context=128, width=width) for width in (16, 64)]
    wide = [point(0.04, context=64, width=16), point(0.31, context=64, width=64)]
    wide[1] = dataclasses.replace(wide[1], process=dataclasses.replace(wide[1].process, ci95=(-2.36, 2.98)))
    assert moved(narrow + wide, "width")[:3] == (2, 0, 1)
    [said] = [one for one in findings.findings(narrow + wide) if one.startswith("Width")]
    assert (
        "is not seen to move the answer (0 of 2 comparisons; intervals leave room for no change by 0.2 in 1)"
        in said
    )
    unknown = dataclasses.replace(wide[1], process=dataclasses.replace(wide[1].process, ci95=(None, None)))
    assert moved([wide[0], unknown], "width").num_equal == 0


def test_a_break_of_the_window_is_told_from_one_of_the_learning():
    points = [
        point(0.01, context=32, window=0.02),
        point(0.01, context=128, window=0.99),
        point(0.98, context=512),
    ]
    assert "Of 2 converged points that do not imitate the whole learning, 1 lie wholly below" in " ".join(
        findings.findings(points)
    )


def test_a_memory_without_a_window_stands_on_no_context():
    free = point(0.98, context=1024, memory="linear_recurrence")
    assert breaks([*grid(), free]) == breaks(grid())
    assert "linear recurrence" in " ".join(findings.findings([*grid(), free]))


def test_without_a_gate_that_passes_nothing_is_claimed():
    assert "VOID" in " ".join(findings.findings([point(0.01, context=32), point(0.02, context=128)]))
    assert "VOID" not in " ".join(findings.findings(grid()))
    assert findings.findings([]) == ["No point has a result yet."]


def test_points_that_memorise_are_told_as_what_more_updates_would_not_mend():
    memorising = dataclasses.replace(
        point(0.01, context=128), training=Trained(converged=True, memorises=True)
    )
    said = " ".join(findings.findings([memorising, point(0.01, context=32)]))
    assert "At 1 of 2 points imitators begin to memorise" in said
    assert "memorise" not in " ".join(findings.findings(grid()))


def test_contexts_that_are_open_are_named_where_they_could_move_a_break():
    opened = [point(0.01, context=context, converged=False) for context in (32, 64)]
    [found] = findings.needs([*opened, point(0.98, context=128)])
    assert found == ("ring 8", None, "128 (yes, 0.98)", None, "32, 64", 100.0)
    longer = point(0.98, context=512, converged=False)
    said = findings.findings([point(0.01, context=128), longer])
    assert said[0].endswith("By its context: none that was tried suffices in the one setting tried.")
    assert "not yet a yes at 128 (no, 0.01); no longer one was tried; 512 open" in said[1]


def test_the_lead_counts_the_settings_that_break():
    assert "from a longer one on it is, in all 3 settings." in findings.lead(grid())
    two = [one for one in grid() if one.values["ring"] < 32]
    assert "from a longer one on it is, in both settings." in findings.lead(two)
    above = [one for one in two if one.values["ring"] > 8 or one.values["context"] > 32]
    assert (
        "it is, in 1 of 2 settings; every one that was tried suffices in 1 of 2 settings."
        in findings.lead(above)
    )


def test_a_yes_below_a_no_is_told_and_not_that_no_context_suffices():
    found = [point(0.01, context=32), point(0.98, context=256), point(0.4, context=1024)]
    [need] = findings.needs(found)
    assert (need.low, need.high) == ("1,024 (partial, 0.40)", None)
    assert "256 (yes, 0.98) suffices, but none from which on all longer ones do" in need.told
    assert "a yes is not borne out by longer ones" in findings.lead(found)
    assert "none that was tried suffices" not in findings.lead(found)


def test_a_life_cut_short_before_its_plateau_moves_neither_the_line_nor_the_lead():
    """Half of a life, whose half takes 163 of its 224 steps: another question than that of the whole."""
    cut = [
        dataclasses.replace(point(share, context=context, span=224), tau_steps=163.4)
        for context, share in ((64, 0.1), (256, 0.98), (1024, 0.4))
    ]
    points = grid()
    assert [one.is_cut_short for one in (*cut, points[0])] == [True, True, True, False]
    assert horizon.breaks([*points, *cut]) == horizon.breaks(points)
    assert findings.needs([*points, *cut]) == findings.needs(points)
    assert findings.lead([*points, *cut]) == findings.lead(points)
    [said] = [one for one in findings.others([*points, *cut]) if "left out" in one]
    assert "PROCESS of 3 of 15 points is left out" in said
    assert "(recorded for 224 steps, half of that gain after 163)" in said
    assert "left out" not in " ".join(findings.findings(points))
    assert "Every recording here ends before the learning does" in findings.lead(cut)
    assert figures_horizon.curves(cut, Rules()).png.startswith(b"\x89PNG")


def test_what_is_called_pace_among_axes_is_told_as_the_learning_rate_that_it_is():
    """In a verdict, pace is the ratio of two time constants."""
    points = [
        point(share, context=context, pace=pace)
        for pace in (2e-3, 2.5e-4)
        for context, share in ((32, 0.01), (1024, 0.98))
    ]
    said = " ".join(findings.findings(points))
    assert "learning rate 0.00025: not yet a yes at 32 (no, 0.01); a yes from 1,024 (yes, 0.98) on" in said
    table = str(horizon_page._table(points))
    for words in (said, table, page.to_csv(points).splitlines()[0]):
        assert "pace" not in words


def test_a_slope_without_an_end_is_told_as_unbounded():
    assert findings.slope_told(Line(0.48, (-7.02, np.inf), 0.0, 6)) == "0.48 [-7.02, unbounded] (6 breaks)"


def test_lives_of_other_lengths_and_other_settings_are_never_compared():
    """Half a life and a whole one; and a sweep along what is no axis."""
    whole = [point(0.01, context=32), point(0.98, context=128)]
    half = [point(0.98, context=context, span=224) for context in (32, 64)]
    assert len(horizon.one_each([*whole, *half])[0]) == 4
    assert [chain.rest["span"] for chain in horizon.chains([*whole, *half], "context")] == [1920, 224]
    assert horizon.varying([*whole, *half]) == ["context", "span"]
    other = [dataclasses.replace(one, settings={"training.learning_rate": 1e-3}) for one in whole]
    other += [
        dataclasses.replace(point(0.5, context=32, rest="b"), settings={"training.learning_rate": 3e-3}),
    ]
    assert len(horizon.chains(other, "context")) == 1
    assert "other settings too (training.learning_rate)" in " ".join(findings.findings(other))
    longer_rings = [point(0.98, ring=8, span=640), point(0.01, ring=24, span=1920)]
    assert horizon.varying(longer_rings) == ["ring"]
    [chain] = horizon.chains([point(0.5, ring=8, span=224), *longer_rings], "ring")
    assert chain.points == longer_rings


def test_seeds_of_one_learner_are_one_break_and_settings_have_lines_of_their_own():
    """One ring seen with three seeds: no line. Three rings, twice, needing twice as much with few updates: slope 1."""
    seeds = [
        dataclasses.replace(one, tau_steps=TAU[8] * (1 + 0.01 * seed))
        for seed in range(3)
        for one in grid(seed=seed)
        if one.values["ring"] == 8
    ]
    [found] = horizon.breaks(seeds)
    assert found.needed == Needed(32, 128)
    assert not np.isfinite(horizon.line([found]).slope)
    assert findings.findings(seeds)[-1] == "No line is fitted: it needs three breaks, and one was found."
    contexts = [2**power for power in range(4, 13)]
    points = [
        dataclasses.replace(
            point(
                0.98 if context >= tau * factor else 0.01,
                ring=ring,
                context=context,
                updates=updates,
                span=ring * 80,
            ),
            tau_steps=float(tau),
        )
        for updates, factor, rings in (
            (500, 2, ((8, 48), (16, 96), (24, 192))),
            (2000, 1, ((16, 96), (24, 192), (32, 384))),
        )
        for ring, tau in rings
        for context in contexts
    ]
    assert horizon.line(horizon.breaks(points)).slope == pytest.approx(1.0, abs=1e-3)


def drawn(monkeypatch, make):
    """The lines that a figure draws, without what only names something for a legend."""
    kept = []
    original = canvas_lib.draw_figure

    def keep(*args, **kwargs):
        *some, draw = args

        def also(canvas):
            draw(canvas)
            kept.append([line for axis in canvas.axes for line in axis.lines if len(line.get_xdata())])

        return original(*some, also, **kwargs)

    for module in (figures_horizon, figures_movers, figures_shown):
        monkeypatch.setattr(module, "draw_figure", keep)
    figure = make()
    return figure, kept[-1]


def test_open_points_are_drawn_hollow_and_closed_ones_filled(monkeypatch):
    points = [point(0.01, context=32), point(0.4, context=128, converged=False), point(0.98, context=512)]
    figure, lines = drawn(monkeypatch, lambda: figures_horizon.curves(points, Rules()))
    marks = {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() == "white"
        for line in lines
        if line.get_marker() in ("o", "v", "s")
    }
    assert {place: hollow for place, hollow in marks.items() if place[1] <= 1} == {
        (32, 0.01): False,
        (128, 0.4): True,
        (512, 0.98): False,
    }
    assert (32, 320.0) in marks  # departs
    assert (512, 1920) in marks  # does not within the horizon
    assert figure.png.startswith(b"\x89PNG")


def test_what_has_not_departed_is_told_from_what_is_not_resolved(monkeypatch, tmp_path):
    """In the figure, on the page and in the table; a verdict that does not tell is not resolved."""
    unresolved = point(0.98, context=128)
    unresolved = dataclasses.replace(
        unresolved, process=dataclasses.replace(unresolved.process, departure_is_resolved=False)
    )
    points = [point(0.01, context=32), unresolved, point(0.98, context=512)]
    _, lines = drawn(monkeypatch, lambda: figures_horizon.curves(points, Rules()))
    marks = {line.get_xdata()[0]: line for line in lines if 0 < line.get_ydata()[0] == 1920}
    assert {
        context: (line.get_marker(), line.get_markerfacecolor() == "white") for context, line in marks.items()
    } == {
        128: ("o", True),
        512: ("s", False),
    }
    assert [horizon_page.departs(one.process) for one in points] == [
        "behind after 320",
        "not resolved",
        "not within 1,920",
    ]
    rows = list(csv.DictReader(io.StringIO(page.to_csv(points))))
    assert [row["process.departure_resolved"] for row in rows] == ["True", "False", "True"]
    run = finished(tmp_path / "run", 512, 9.8)
    assert points_lib.read(run)[0].process.departure_is_resolved
    decided = json.loads((run / "verdict.json").read_text())
    for stage in decided["contexts"]["512"]["process"]["stages"]:
        assert stage.pop("departure_resolved") is True
    (run / "verdict.json").write_text(json.dumps(decided))
    assert not points_lib.read(run)[0].process.departure_is_resolved


def test_the_analytic_lines_are_the_window_s_and_the_ceiling_s(monkeypatch):
    points = [point(0.01, context=32, window=0.2), point(0.98, context=512, window=0.9)]
    _, lines = drawn(monkeypatch, lambda: figures_horizon.curves(points, Rules()))
    by_style = {
        line.get_linestyle(): list(line.get_ydata()) for line in lines if list(line.get_xdata()) == [32, 512]
    }
    assert by_style[":"] == [0.2, 0.9]
    assert by_style["--"] == [1.02, 1.02]


def test_an_interval_without_ends_fills_the_panel_and_a_share_beyond_it_is_an_arrow(monkeypatch):
    unknown = point(0.4, context=32)
    unknown = dataclasses.replace(unknown, process=dataclasses.replace(unknown.process, ci95=(None, None)))
    _, lines = drawn(monkeypatch, lambda: figures_horizon.curves([unknown, point(1.7, context=128)], Rules()))
    uprights = [list(one.get_ydata()) for one in lines if list(one.get_xdata()) == [32, 32]]
    low, high = shares.SHARES
    assert [low, high] in uprights
    [arrow] = [one for one in lines if one.get_marker() == "^" and list(one.get_xdata()) == [128]]
    assert list(arrow.get_ydata()) == [high]
    arrows = {
        one.get_marker() for one in lines if list(one.get_xdata()) == [32] and one.get_markersize() == 5
    }
    assert arrows == {"^", "v"}  # the interval goes on at either edge


def test_a_colour_means_one_thing_in_all_panels_of_movers_and_no_two_lines_look_alike():
    points = [
        point(0.5, context=context, ring=ring, width=width, memory=memory)
        for context in (32, 128, 1024)
        for ring in (8, 24)
        for width in (16, 64)
        for memory in ("transformer", "linear_recurrence")
        if memory == "transformer" or context == 1024
    ]
    points = [*(point(0.5, context=context, ring=4, width=64) for context in (32, 128)), *points]
    panels = {axis: horizon.chains(points, axis) for axis in ("context", "ring", "memory", "width")}
    lines = figures_movers._lines(panels)
    for some in lines.values():
        assert len({(one.ink, one.style) for one in some}) == len({one.label for one in some}) == len(some)
    settings, contexts = {}, {}
    for along, some in lines.items():
        for one in some:
            rest = one.chain.rest
            if along in ("context", "memory"):
                settings.setdefault(one.ink, set()).add((rest["ring"], rest["width"]))
            else:
                contexts.setdefault(one.ink, set()).add(rest["context"])
    assert len(settings) == 5  # one of them in the panel of contexts alone, and first there
    assert len(contexts) == 3
    assert all(len(meant) == 1 for meant in (*settings.values(), *contexts.values()))
    assert not settings.keys() & contexts.keys()


def test_a_line_that_would_count_if_its_training_had_converged_is_said_not_to_have():
    """Else `0 of 1` stands under a line from 0.04 to 1.00."""
    points = [
        point(1.0, ring=8, width=16),
        point(1.0, ring=8, width=64),
        point(0.04, ring=24, width=16, converged=False),
        point(1.0, ring=24, width=64),
    ]
    assert figures_movers._changes(points, "width") == "answer changes in 0 of 1 line; 1 not converged"
    assert figures_movers._changes(points[:2], "width") == "answer changes in 0 of 1 line"


def test_ticks_of_a_movers_panel_do_not_run_into_each_other(monkeypatch):
    rates = (0.00025, 0.0005, 0.001, 0.002, 0.004)
    points = [point(0.5, pace=pace) for pace in rates]
    axes = []
    original = figures_movers._draw_ticks
    monkeypatch.setattr(
        figures_movers, "_draw_ticks", lambda panel, *rest: (original(panel, *rest), axes.append(panel))
    )
    assert figures_movers.movers(points, Rules()) is not None
    [panel] = axes
    assert [one.get_text() for one in panel.get_xticklabels()] == ["0.004", "0.001", "0.00025"]


def test_every_figure_is_drawn_where_there_is_something_to_draw():
    points = grid()
    assert needed_context.needed(horizon.breaks(points)) is not None
    assert figures_movers.movers(points, Rules()) is not None
    assert figures_movers.movers(points[:1], Rules()) is None
    assert figures_horizon.surface(points) is None
    surface = [
        dataclasses.replace(point(0.1, tasks=tasks, learners=learners), elsewhere=0.2)
        for tasks in (16, 64)
        for learners in (64, 256)
    ]
    assert figures_horizon.surface(surface) is not None


def test_later_counts_where_the_imitators_of_its_own_fork_have_converged():
    asked = dataclasses.replace(NOT_ASKED, answer="yes", share=0.9, ci95=(0.8, 1.0))
    later = dataclasses.replace(point(0.9), later=asked, later_training=Trained(converged=False))
    assert "LATER is not answered at any converged point." in findings.findings([later])
    other = dataclasses.replace(later, training=later.later_training, later_training=later.training)
    assert "LATER, where it can be asked at a converged point: yes at 1 of 1." in findings.findings([other])


def test_points_asked_another_later_share_a_process_and_no_chain_of_later():
    """The same imitators, after other forks or for longer: neither is dropped, and no line joins them."""
    asked = dataclasses.replace(NOT_ASKED, answer="partial", share=0.3, ci95=(0.2, 0.45))

    def later(fork: int, onward: int, **values) -> Point:
        at = {"fork": fork, "onward": onward, "now": 128}
        return dataclasses.replace(point(0.98, **values), later=asked, later_values=at)

    points = [
        later(fork, onward, context=context)
        for fork, onward in ((224, 416), (320, 416), (320, 1280))
        for context in (32, 128)
    ]
    kept, num_again = horizon.one_each([*points, points[0]])
    assert (kept, num_again) == (points, 1)
    [process] = horizon.chains(points, "context")
    assert process.points == points[:2]
    found = horizon.chains(points, "context", question="later")
    assert [chain.points for chain in found] == [points[:2], points[2:4], points[4:]]
    assert "partial at 6 of 6." in " ".join(findings.findings(points))
    rings = [later(224, 416, ring=8), later(672, 1248, ring=24)]
    assert [chain.points for chain in horizon.chains(rings, "ring", question="later")] == [rings]
    never = [
        dataclasses.replace(one, later=dataclasses.replace(NOT_ASKED, answer="not run")) for one in points
    ]
    assert horizon.one_each(never) == (never[:2], 4)


def test_a_surface_holds_points_that_differ_in_nothing_else(monkeypatch):
    """A second context is a second grid, and does not lie on the first."""
    points = [
        point(share, tasks=tasks, learners=learners, context=context)
        for context, share in ((64, 0.2), (128, 0.9))
        for tasks in (16, 64)
        for learners in (64, 256)
    ]
    drawn_grids = []
    original = figures_horizon._draw_grid
    monkeypatch.setattr(
        figures_horizon,
        "_draw_grid",
        lambda panel, grid, height: (original(panel, grid, height), drawn_grids.append([*map(height, grid)])),
    )
    assert figures_horizon.surface(points) is not None
    assert drawn_grids == [[0.2] * 4, [0.9] * 4]


def cut(fork: int, shown: float | None, later: float, **values) -> Point:
    """Recording stopped at `fork`; this share of the recorded lives had come to where learners come later."""
    asked = dataclasses.replace(NOT_ASKED, answer="partial", share=later, ci95=(later - 0.1, later + 0.1))
    asked = dataclasses.replace(asked, learner_gain=0.5)
    had = None if shown is None else Shown(shown, shown - 0.02, shown + 0.03)
    at = {"fork": fork, "onward": 640, "now": 32}
    return dataclasses.replace(point(0.98, span=fork, **values), later=asked, later_values=at, shown=had)


def test_later_is_held_against_what_was_shown_where_all_else_is_equal(monkeypatch):
    early, late = cut(128, 0.02, 0.16), cut(256, 0.47, 0.67)
    opened = cut(192, 0.18, 0.3, converged=False)
    void = dataclasses.replace(cut(320, 0.7, 0.9), later=NOT_ASKED)
    others = [cut(224, None, 0.5), void, cut(224, 0.3, 0.4, width=32), cut(224, 0.3, 0.4, seed=1)]
    points = [late, *others, opened, early]
    [chain] = by_shown(points)
    assert chain.points == [early, opened, late]
    assert not {"span", "fork"} & chain.rest.keys()
    [sentence] = [one for one in findings.findings(points) if "by how many of the recorded lives" in one]
    assert sentence.endswith(
        "come later: 0.16 [0.06, 0.26] where 2% had (0.08 of the range; the learner 0.50), 0.67 [0.57, 0.77] where 47% "
        "had (0.34 of the range; the learner 0.50)."
    )  # what is open counts nowhere
    assert not [
        one for one in findings.findings([late, *others]) if "by how many of the recorded lives" in one
    ]
    figure, lines = drawn(monkeypatch, lambda: figures_shown.later_by_shown(points, Rules()))
    assert figure.name == "shown"
    marks = {
        (line.get_xdata()[0], round(line.get_ydata()[0], 3)): line.get_markerfacecolor() == "white"
        for line in lines
        if line.get_marker() == "o"
    }
    shares_and_gains = {(0.02, 0.16): False, (0.18, 0.3): True, (0.47, 0.67): False}
    shares_and_gains |= {(0.02, 0.08): False, (0.18, 0.15): True, (0.47, 0.335): False}
    assert marks == shares_and_gains
    learners, gains = [list(line.get_ydata()) for line in lines if len(line.get_xdata()) == 3][1:]
    assert gains == pytest.approx([0.08, 0.15, 0.335])
    assert learners == [0.5] * 3
    [upright] = [
        list(line.get_ydata()) for line in lines if list(line.get_ydata()) == pytest.approx([0.285, 0.385])
    ]
    assert upright
    across = [tuple(line.get_xdata()) for line in lines if line.get_alpha() is not None]
    assert across == [pytest.approx((one - 0.02, one + 0.03)) for one in (0.02, 0.18, 0.47)]
    assert figures_shown.later_by_shown([late, *others], Rules()) is None


def test_two_settings_cut_at_several_steps_are_two_lines_each_told_by_name(monkeypatch):
    points = [
        cut(fork, shown, 0.4, width=width) for width in (32, 64) for fork, shown in ((128, 0.1), (256, 0.4))
    ]
    assert [chain.rest["width"] for chain in by_shown(points)] == [32, 64]
    said = [one for one in findings.findings(points) if "by how many of the recorded lives" in one]
    assert [one.partition("later (")[2].partition(")")[0] for one in said] == ["width 32", "width 64"]
    labels = []
    monkeypatch.setattr(
        canvas_lib,
        "draw_legend",
        lambda canvas, panels: labels.extend(panels[0].get_legend_handles_labels()[1]),
    )
    assert figures_shown.later_by_shown(points, Rules()) is not None
    assert labels == ["width 32", "width 64"]
    onward = [
        dataclasses.replace(one, later_values={**one.later_values, "onward": steps})
        for steps in (320, 640)
        for one in points[:2]
    ]
    assert settings(by_shown(onward)) == ["steps after the fork 320", "steps after the fork 640"]


def test_what_was_shown_is_a_line_only_over_several_forks_and_of_points_that_tell_it():
    whole, half = cut(256, 0.47, 0.67), cut(128, 1.0, 0.3)
    longer = dataclasses.replace(whole, values={**whole.values, "span": 640})
    assert by_shown([whole, longer]) == []
    assert by_shown([whole, longer, half])[0].points == [whole, half]
    silent = dataclasses.replace(whole, shown=None)
    assert by_shown([silent, whole, half])[0].points == [whole, half]
    assert "where 100% had" in " ".join(findings.findings([whole, half]))
    assert Shown(1 / 256, 0.0, 0.01).told == "0.391%"  # not "0%": somebody was shown it


def test_what_was_shown_is_read_from_the_control_that_counts_it(tmp_path):
    run = finished(tmp_path / "run", 512, 9.8)
    assert points_lib.read(run)[0].shown is None
    decided = json.loads((run / "verdict.json").read_text())
    entry = {"estimate": 0.0, "shown": {"estimate": 0.3, "ci95": [0.25, 0.36]}}
    decided["controls"] = {"novelty": entry}
    (run / "verdict.json").write_text(json.dumps(decided))
    [read] = points_lib.read(run)
    assert read.shown == Shown(0.3, 0.25, 0.36)
    page.draw([run], tmp_path / "out")
    [row] = csv.DictReader(io.StringIO((tmp_path / "out" / "horizon.csv").read_text()))
    assert [row[f"later.{name}"] for name in ("shown", "shown_low", "shown_high")] == ["0.3", "0.25", "0.36"]
    html = (tmp_path / "out" / "index.html").read_text()
    assert ">recorded lives come so far</th>" in html
    assert "<td>30%</td>" in html
    for cannot in (
        {},
        {"estimate": None, "ci95": [None, None]},
    ):  # of an older verdict, and of lives that gain nothing
        decided["controls"] = {"novelty": {"estimate": 0.0} | ({"shown": cannot} if cannot else {})}
        (run / "verdict.json").write_text(json.dumps(decided))
        assert points_lib.read(run)[0].shown is None


def test_figures_draw_the_same_bits_again():
    assert figures_horizon.curves(grid(), Rules()).png == figures_horizon.curves(grid(), Rules()).png


def finished(
    path: pathlib.Path,
    context: int,
    end: float,
    *,
    ring: int = 24,
    converged: bool = True,
    memorises: bool = False,
) -> pathlib.Path:
    """A run's folder, whose verdict is decided from synthetic cells: PROCESS ends at `end`."""
    of = synthetic.experiment(
        environment=Lock(num_positions=ring),
        imitator=Imitator(context_steps=context, refill_steps=8),
        evaluation=Evaluation(fork_steps=(640,), later_fork_step=640, block_steps=32),
        simulation=Simulation(num_recorded=64),
    )
    losses = np.r_[np.linspace(1.0, 0.5, 8), np.full(8, 0.5)] if converged else np.linspace(1.0, 0.2, 16)
    losses = np.r_[losses, np.full(8, 0.8)] if memorises else losses
    looks = np.arange(len(losses))
    curve = {"context_steps": context, "fork_step": 640, "held_out_loss": [losses], "floor": None}
    curve |= {"held_out_update": looks, "updates": looks, "train_loss": [np.linspace(1.0, 0.1, len(losses))]}
    cells = synthetic.cells(context, process_end=end)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(load_config.dump(of))
    (path / "verdict.json").write_text(json.dumps(synthetic.decide(cells, of, loss_curves=[curve])))
    return path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> pathlib.Path:
    """Four contexts; the second one's training had not converged; a fifth has no result."""
    path = tmp_path_factory.mktemp("sweep")
    given = {32: (1.2, True), 64: (9.8, False), 128: (1.3, True), 512: (9.8, True)}
    names = [f"context_steps={context}" for context in (*given, 1024)]
    for context, (end, converged) in given.items():
        finished(path / "points" / f"context_steps={context}", context, end, converged=converged)
    points = [{"name": name, "values": {}, "fingerprint": "f"} for name in names]
    write_json(path / "sweep.json", {"axes": [], "points": points})
    return path


def test_a_sweep_s_folder_becomes_sentences_figures_a_table_and_a_page(sweep, tmp_path, capsys):
    said = page.draw([sweep], tmp_path / "out")
    assert said[0].startswith("PROCESS asks whether")
    assert "not yet a yes at 128 (no, 0.0" in said[1]
    assert "1 of 4 points are open" in " ".join(said)
    assert said[-1] == "1 of 5 runs have no result yet."
    assert said[0] in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "horizon.csv").read_text())))
    assert [(row["context"], row["process.answer"], row["converged"]) for row in rows] == [
        ("32", "no", "True"),
        ("64", "yes", "False"),
        ("128", "no", "True"),
        ("512", "yes", "True"),
    ]
    assert float(rows[0]["process.ceiling"]) == pytest.approx(1.0, abs=0.05)
    html = (tmp_path / "out" / "index.html").read_text()
    assert said[0] in html
    assert html.count("data:image/png;base64,") == 3
    assert (tmp_path / "out" / "horizon.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_asks_answers_and_says_by_which_rules_and_from_what_it_was_made(sweep, tmp_path):
    run = finished(tmp_path / "run", 512, 1.3, ring=64, memorises=True)
    made = {"fingerprint": "abc" * 20, "git_revision": "0123456789ab", "started": "2026-11-27 00:47:19 +0000"}
    (run / "manifest.json").write_text(json.dumps(made))
    page.draw([sweep, run], tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text()
    heads = re.findall(r"<h([12])[^>]*>(.*?)</h", html)
    assert [title for level, title in heads if level == "1"] == ["How far does frozen imitation go?"]
    assert len({title for _, title in heads}) == len(heads) > 5
    lead = re.findall(r'<p class="lead">(.*?)</p>', html)[0]
    assert lead.startswith("PROCESS asks whether")
    assert len(lead.split()) < 70
    assert "<td>here</td>" in html or "<td>ring 24</td>" in html
    decided = json.loads((run / "verdict.json").read_text())["questions"]
    for name in ("process", "later"):
        assert decided[name]["question"] in html
        assert escape(decided[name]["rule"], quote=False).replace("'", "&#39;") in html
    for term in ("perfect use of the window", "time constant", "needed context", "Not resolved"):
        assert term in html
    assert html.count("<td>converged; memorises</td>") == 1
    for of_the_run in ("0123456789ab", "2026-11-27", "abcabcabcabc", "not recorded"):
        assert of_the_run in html
    assert f"cl-imitate horizon {sweep} {run} --out {tmp_path / 'out'}" in html
    assert '<meta name="viewport"' in html
    assert "@media print" in html
    for wide in re.finditer(r"<(img|table)", html):
        assert 'class="scroll"' in html[wide.start() - 45 : wide.start()], html[wide.start() :][:60]


def test_what_is_void_stands_on_top_of_the_page(tmp_path):
    finished(tmp_path / "run", 512, 1.3)
    page.draw([tmp_path / "run"], tmp_path / "out")
    header = (tmp_path / "out" / "index.html").read_text().partition("</header>")[0]
    assert '<div class="void-box" role="alert"><strong>VOID: no point passes its own gate' in header


def test_runs_and_sweeps_go_together(sweep, tmp_path):
    one = finished(tmp_path / "run", 512, 1.3, ring=64)
    points = [point for folder in (*page._runs(sweep)[:4], one) for point in points_lib.read(folder)]
    assert horizon.varying(points) == ["context", "ring"]
    assert breaks(points)[24] == Needed(128, 512)
    assert breaks(points)[64] == Needed(512, None)


def test_a_place_is_drawn_once_and_a_ring_that_grows_stands_elsewhere(sweep, tmp_path):
    again = finished(tmp_path / "again", 32, 9.8)
    said = page.draw([sweep, again], tmp_path / "out")
    assert "1 more points stand where others do" in said[-1]
    assert said[0] == page.draw([sweep], tmp_path / "out")[0]
    grows = Lock(num_positions=24, initial_positions=8, grow_every_steps=96, grow_from_step=128)
    values = [
        points_lib.values(synthetic.experiment(environment=one), 32)
        for one in (grows, Lock(num_positions=24))
    ]
    assert {axis for axis in values[0] if values[0][axis] != values[1][axis]} == {"growth"}
    assert list(values[0]) == [axis for axis in horizon.AXES]
    assert list(points_lib.later_values(synthetic.experiment())) == [axis for axis in horizon.LATER_AXES]
    elsewhere = points_lib.read(again)[0].later_values
    assert elsewhere == {"fork": 640, "onward": Evaluation().later_steps, "now": Evaluation().now_steps}


def test_what_is_no_sweep_and_what_is_void_are_errors(sweep, tmp_path):
    with pytest.raises(ValueError, match="neither a sweep nor a run"):
        page.draw([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="given nothing"):
        page.draw([], tmp_path / "out")
    one = finished(tmp_path / "run", 512, 9.8)
    decided = json.loads((one / "verdict.json").read_text())
    (one / "verdict.json").write_text(
        json.dumps(decided | {"void": ["the gate failed: x", "parameters changed"]})
    )
    with pytest.raises(ValueError, match="is void: parameters changed"):
        points_lib.read(one)
    (one / "verdict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"damaged.*report --again"):
        points_lib.read(one)
    (one / "verdict.json").unlink()
    with pytest.raises(ValueError, match="has a result yet"):
        page.draw([one], tmp_path / "out")


def test_of_a_setting_only_what_it_has_is_told():
    ring = {"ring": 8, "room": None, "pace": 0.002, "context": 64}
    assert horizon.told(ring, ["ring", "room", "pace", "fork"]) == "ring 8, learning rate 0.002"
    assert horizon.told({"ring": None, "room": 5}, ["ring", "room"]) == "room 5"
