"""The page is whole without the network, says what the verdict says, and a browser draws every figure."""

import dataclasses
import html.parser
import pathlib
import re
import shutil
import subprocess
import tomllib

import numpy as np
import pytest
import synthetic

from cl_imitate import report
from cl_imitate.config import Lock, Rules
from cl_imitate.figures import arms, canvas

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --v=0
"""
OF = synthetic.experiment(rules=Rules(bootstrap_samples=50))
MANIFEST = {
    "versions": {"jax": "0.10.2"},
    "device": "cpu",
    "command": "cl-imitate run configs/synthetic.toml",
}


def curves(context_steps: int, fork_step: int) -> dict:
    return {
        "context_steps": context_steps,
        "fork_step": fork_step,
        "updates": np.arange(10),
        "train_loss": np.linspace(1.5, 0.5, 10)[None].repeat(2, 0),
        "held_out_update": np.array([0, 5]),
        "held_out_loss": np.array([[1.5, 0.8], [1.5, 0.9]]),
    }


def write(folder: pathlib.Path, cells: list, verdict: dict | None = None, **changes) -> pathlib.Path:
    given = {
        "experiment": OF,
        "cells": cells,
        "gate_cells": None,
        "verdict": verdict or synthetic.decide(cells, OF),
        "manifest": MANIFEST,
        "loss_curves": [],
    }
    return report.write(folder, **{**given, **changes})


@pytest.fixture(autouse=True, scope="module")
def small_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "_DPI", 50)
        patch.setattr(arms, "SAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
    cells = [
        *synthetic.cells(128, process_end=1.0),
        synthetic.process(context_steps=512),
        synthetic.now(context_steps=512),
    ]
    losses = [curves(128, 320), {**curves(128, 640), "floor": 0.25}]
    return write(tmp_path_factory.mktemp("run"), cells, loss_curves=losses)


class Tags(html.parser.HTMLParser):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def browse(path: pathlib.Path, profile: pathlib.Path, *options: str) -> tuple[str, str]:
    if BROWSER is None:
        pytest.skip("no Chromium here: looked for chromium, chromium-browser and google-chrome")
    profile_option = f"--user-data-dir={profile}"
    command = [BROWSER, *QUIET.split(), *options, profile_option, "--dump-dom", path.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def test_a_browser_draws_every_figure_and_reports_no_error(page, tmp_path):
    dom, log = browse(page, tmp_path)
    drawn = re.search(r'data-figures-drawn="(\d+)/(\d+)"', dom)
    assert drawn, "the page's own count did not run"
    assert drawn[1] == drawn[2] == str(len(Tags(page).of("img")))
    assert "CONSOLE" not in log, log


def test_the_browser_test_notices_a_broken_figure_and_a_console_error(page, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8").replace(
        '<img src="data:image/png;base64,iVBOR', '<img src="data:image/png;base64,AAAAA', 1
    )
    broken.write_text(text.replace("</body>", "<script>console.error('x')</script></body>"), encoding="utf-8")
    dom, log = browse(broken, tmp_path / "profile")
    drawn = re.search(r'data-figures-drawn="(\d+)/(\d+)"', dom)
    assert drawn
    assert int(drawn[1]) == int(drawn[2]) - 1
    assert "CONSOLE" in log


def test_every_figure_is_inlined_saved_beside_the_page_and_described(page):
    tags = Tags(page)
    images = tags.of("img")
    assert len(images) >= 8
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert all(len(image["alt"]) > 40 for image in images)
    names = {attributes["id"].removeprefix("figure-") for attributes in tags.of("figure")}
    assert names == {path.stem for path in page.parent.glob("*.png")}
    assert {"headline", "parity", "ladder", "points", "losses", "forks", "process", "elsewhere"} <= names


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in Tags(page).found:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    assert "url(" not in page.read_text(encoding="utf-8")
    assert not list(page.parent.glob(".*")), "temporary files are left"


def test_the_page_says_what_the_verdict_says(page):
    text = re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))
    verdict = synthetic.decide(synthetic.cells(128, process_end=1.0), OF)
    assert "does not reproduce the process" in text
    for one in verdict["questions"].values():
        assert one["meaning"].split(",")[0] in text
    for words in (
        "delayed reward",
        "under 0.8",
        MANIFEST["command"],
        "jax",
        verdict["fingerprint"],
        "sham learner",
    ):
        assert words in text
    for term in report.GLOSSARY:
        assert term in text


def test_a_departure_that_is_not_resolved_is_told_from_none(tmp_path):
    """A verdict made before this was told does not tell, and is read as not resolved."""
    cells = [synthetic.process(), synthetic.process(5.0, start_step=160, blocks=15)]
    verdict = synthetic.decide(cells, OF)
    none, behind = verdict["questions"]["process"]["stages"]
    shown = []
    for resolved in ({"departure_resolved": True}, {}):
        none.pop("departure_resolved")
        none.update(resolved)
        told = write(tmp_path, cells, verdict).read_text()
        shown.append(re.findall(r"<td>(falls [^<]*|not within[^<]*|not resolved)</td>", told))
    later = f"falls behind after {canvas.steps(behind['departure_step'])} steps"
    assert shown == [["not within the span", later], ["not resolved", later]]


def test_a_void_run_says_so_before_anything_else(tmp_path):
    cells = [synthetic.now()]
    text = write(tmp_path, cells).read_text(encoding="utf-8")
    assert text.index("This run is void") < text.index('class="lead') < text.index("<figure")
    assert "the gate was not run" in text


def test_the_first_screen_holds_the_answer_one_figure_and_what_would_have_changed_it(tmp_path):
    cells = synthetic.cells()
    whole = write(tmp_path / "whole", cells, synthetic.decide_past_the_gate(*cells))
    void = write(tmp_path / "void", [synthetic.now(), synthetic.process(1.0)])
    for path in (whole, void):
        text = path.read_text(encoding="utf-8")
        head = text[text.index("<header>") : text.index("</header>")]
        assert head.count("<figure") == 1
        order = (
            "<h1>",
            'class="lead',
            "<figure",
            "What would have changed the answer",
            "<li>",
            "Brackets are 95%",
        )
        assert [head.index(one) for one in order] == sorted(head.index(one) for one in order)
        measure = (
            "document.body.dataset.ends = document.querySelector('.change').getBoundingClientRect().bottom"
        )
        measured = path.with_name("measured.html")
        measured.write_text(text.replace("</body>", f"<script>{measure}</script></body>"), encoding="utf-8")
        dom, _ = browse(measured, tmp_path / "profile", "--window-size=1280,800")
        ends = re.search(r'data-ends="([\d.]+)"', dom)
        assert ends
        assert float(ends[1]) <= 800


def laid_out(page: pathlib.Path, text: str, profile: pathlib.Path, width: int, measure: str) -> str:
    """What `measure`, a script, finds on a page in a window of this width."""
    measured = page.with_name("laid_out.html")
    script = f"<script>document.body.dataset.found = {measure}</script>"
    measured.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    dom, _ = browse(measured, profile, f"--window-size={width},900")
    measured.unlink()
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found
    return found[1]


RIGHT = "[...document.querySelectorAll('.verdict td, .verdict span, header img')].map((one) => Math.round("
RIGHT += (
    "one.getBoundingClientRect().right)).reduce((one, other) => Math.max(one, other)) - window.innerWidth"
)


def test_on_a_narrow_screen_the_verdict_and_the_first_figure_are_within_it(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert int(laid_out(page, text, tmp_path, 500, RIGHT)) <= 0
    names = (
        "document.querySelector('header img').currentSrc === document.querySelector('header source').srcset"
    )
    assert laid_out(page, text, tmp_path, 500, names) == "true"
    assert laid_out(page, text, tmp_path, 1200, names) == "false"
    head = text[text.index('<table class="verdict">') :]
    assert head.index("measured") < head.index("estimate [95% interval]") < head.index("the essay predicts")


def test_on_paper_nothing_is_wider_than_the_page(page, tmp_path):
    """A4 less its margins is 718 pixels wide. The rules for paper are tried on a screen, without those for phones."""
    text = page.read_text(encoding="utf-8")
    assert "@media (max-width" not in text  # paper is narrow too
    paper = text.replace("screen and (max-width: 760px)", "speech").replace("@media print", "@media all")
    wide = "[...document.querySelectorAll('table, img, pre')].filter((one) => one.offsetWidth > "
    wide += "document.querySelector('main').offsetWidth).length"
    assert laid_out(page, paper, tmp_path, 718, wide) == "0"
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert laid_out(page, paper, tmp_path, 718, over) == "0"


def test_later_says_what_its_ratio_counts_from_and_how_it_looks_from_the_held_learners_level(page):
    text = page.read_text(encoding="utf-8")
    fork = synthetic.decide(synthetic.cells(128, process_end=1.0), OF)["questions"]["later"]["forks"][0]
    counted = report._number(fork["from_held"]["estimate"], fork["from_held"]["ci95"])
    assert f"Counted from the held learner's level: imitator {counted}" in text
    assert "an arm that starts high has less left to gain" in text
    assert report._number(fork["now_ratio"], fork["now_ci95"]) in text
    assert re.search(r"<td>falls behind after \d+ steps</td>", text)


def test_in_a_task_that_grows_the_page_says_that_gains_count_from_the_fallen_level(tmp_path):
    grown = dataclasses.replace(
        OF, environment=Lock(initial_positions=4, grow_every_steps=64, grow_from_step=320)
    )
    cells = [synthetic.later(8.5)]
    text = write(tmp_path, cells, synthetic.decide(cells, grown)).read_text(encoding="utf-8")
    assert "gains are counted from the level that the held learner has fallen to" in text
    assert "Counted from the held learner's level" not in text


@pytest.mark.parametrize(
    ("start", "explained"), [(synthetic.RANDOM - 2, True), (synthetic.RANDOM + 2, False)]
)
def test_a_gain_above_the_learners_range_is_explained(tmp_path, start, explained):
    text = write(tmp_path, [synthetic.process(start=start)]).read_text(encoding="utf-8")
    assert ("the learner starts below it" in text) == explained


def test_a_held_out_loss_that_turns_up_is_said_to_rise_and_where_it_was_lowest(tmp_path):
    updates = np.arange(0, 400, 10)
    turned = np.r_[np.linspace(1.5, 0.8, 20), np.linspace(0.8, 0.9, 20)]
    one = {
        "context_steps": 128,
        "fork_step": 640,
        "updates": updates,
        "train_loss": np.linspace(1.5, 0.5, 40)[None],
        "held_out_update": updates,
        "held_out_loss": np.stack([turned, np.roll(turned, -2)]),
    }
    verdict = synthetic.decide([synthetic.now()], OF, loss_curves=[one])
    page = write(tmp_path, [synthetic.now()], verdict, loss_curves=[one])
    text = page.read_text(encoding="utf-8")
    assert "the held-out loss rose by 0." in text
    assert "its lowest was at updates 170 to 190, while the training loss went on falling" in text
    assert "fell by -" not in text


def test_a_device_that_is_its_platform_is_named_once():
    assert dict(report._facts({"device": "cpu cpu", "name": "cpu cpu"})) == {
        "device": "cpu",
        "name": "cpu cpu",
    }
    assert dict(report._facts({"device": "gpu NVIDIA H100"}))["device"] == "gpu NVIDIA H100"


def test_a_run_that_is_not_void_does_not_say_so(page):
    assert 'class="void-box"' not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("protocol", ["now", "month", "process", "later", "elsewhere"])
def test_one_protocol_alone_makes_a_page(tmp_path, protocol):
    cells = [cell for cell in synthetic.cells() if cell.protocol == protocol][:1]
    page = write(tmp_path, cells)
    assert "not run" in page.read_text(encoding="utf-8")


def test_an_empty_run_makes_a_page(tmp_path):
    assert write(tmp_path, [], manifest={}).exists()


def test_unknown_bounds_missing_arms_and_empty_blocks_make_a_page(tmp_path):
    nowhere = np.full(24, np.nan)
    cells = []
    for cell in (synthetic.process(), synthetic.later(5.0), synthetic.elsewhere("5", 1.0)):
        cell = dataclasses.replace(cell, ceiling_return=nowhere, optimal_return=nowhere)
        for values in cell.returns.values():
            values[..., 1] = np.nan
        cell.returns["imitator"][:, :3] = np.nan
        cells.append(synthetic.without(cell, "imitator_argmax", "imitator_wiped"))
    cells.append(synthetic.without(synthetic.now(), "imitator"))
    text = write(tmp_path, cells).read_text(encoding="utf-8")
    assert "neither ceiling nor optimum" in text
    assert "arm not run: imitator" in text


def test_a_gate_beside_the_run_has_its_own_figure(tmp_path):
    arms = {"learner": synthetic.rising(1, 10), "imitator": synthetic.rising(1, 10), "imitator_wiped": 1.0}
    gate = synthetic.cell("gate", arms, start_step=0)
    page = write(tmp_path, [synthetic.now()], gate_cells=[gate])
    assert (page.parent / "gate.png").exists()


def test_the_configuration_is_shown_as_toml_that_can_be_read_back():
    shown = tomllib.loads(report.toml_like(dataclasses.asdict(OF)))
    assert shown["environment"]["family"] == "lock"
    assert shown["rules"]["parity"] == 0.9
    assert shown["evaluation"]["rungs"][0]["name"] == "symbols permuted"
    assert shown["evaluation"]["fork_steps"] == [320, 640]
    assert shown["evaluation"]["transplant"] is True


def test_text_from_the_run_is_escaped(tmp_path):
    page = write(tmp_path, [synthetic.elsewhere("2", 1.0, rung_name="<script>alert(1)</script>")])
    assert "<script>alert" not in page.read_text(encoding="utf-8")


def test_the_same_run_makes_the_same_page(tmp_path):
    cells = [synthetic.now()]
    first = write(tmp_path, cells).read_bytes()
    assert write(tmp_path, cells).read_bytes() == first


def test_long_curves_are_drawn_in_averages_of_blocks():
    cell = synthetic.cell("later", {"learner": np.arange(1000.0)}, noise=0)
    thin = arms.thinned(cell, "learner")
    assert thin.num_blocks <= 120
    assert thin.block_steps == 9 * cell.block_steps
    np.testing.assert_allclose(thin.returns["learner"][0, 0, 0], 4.0)


@pytest.mark.parametrize(("number", "words"), [(640, "640"), (3200, "3.2k"), (1_000_000, "1M"), (None, "–")])
def test_steps_are_short(number, words):
    assert canvas.steps(number) == words


def test_ticks_of_an_axis_are_in_one_unit():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    axis.set_xlim(0, 1300)
    canvas.label_steps(axis, "steps")
    told = [axis.xaxis.get_major_formatter()(tick, 0) for tick in (0, 300, 900, 1200)]
    assert told == ["0", "0.3k", "0.9k", "1.2k"]
    axis.set_xlim(0, 640)
    assert axis.xaxis.get_major_formatter()(600, 0) == "600"


@pytest.mark.parametrize("inches", [12.4, 8.0, 4.0])
def test_a_legend_takes_as_many_columns_as_fit_and_cuts_no_name_off(inches):
    from matplotlib.figure import Figure

    page = Figure(figsize=(inches, 4), layout="constrained")
    axis = page.subplots()
    for number in range(8):
        axis.plot([0, 1], label=f"{number} frozen imitator, context wiped each episode")
    canvas.draw_legend(page, [axis])
    [legend] = page.legends
    assert legend.get_window_extent().width <= page.bbox.width
    assert legend._ncols == {12.4: 3, 8.0: 2, 4.0: 1}[inches]
