"""Against scipy, closed forms, and a plain re-implementation of rliable's bootstrap."""

import numpy as np
import pytest
import scipy.stats

from cl_imitate import statistics


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(-2, -1))


def test_iqm_is_the_mean_of_the_middle_half_of_all_seeds_and_learners():
    values = np.array([[0.0, 1.0, 2.0, 100.0], [3.0, 4.0, 5.0, -50.0]])
    assert statistics.iqm(values) == pytest.approx(np.mean([1, 2, 3, 4]))
    assert statistics.iqm(values[None]).shape == (1,)


def test_iqm_agrees_with_scipy_on_a_flat_sample():
    values = generator().standard_normal((3, 17))
    assert statistics.iqm(values) == pytest.approx(scipy.stats.trim_mean(values.ravel(), 0.25))


def test_a_ratio_of_iqms_survives_a_learner_whose_range_is_zero():
    denominator = np.array([[0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    assert statistics.iqm_ratio(denominator / 2, denominator) == pytest.approx(0.5)


def test_a_ratio_of_iqms_is_not_an_iqm_of_ratios():
    numerator, denominator = np.array([[1.0, 2, 3, 4]]), np.array([[4.0, 3, 2, 1]])
    assert statistics.iqm_ratio(numerator, denominator) == 1.0


def test_equal_arms_have_a_ratio_of_exactly_one_with_and_without_a_seed_axis():
    learner = 1 + generator().random((1, 11))
    one = statistics.estimate(
        statistics.iqm_ratio,
        np.repeat(learner, 3, axis=0),
        learner,
        task=np.arange(11),
        rng=generator(),
        samples=50,
    )
    assert one.value == 1.0
    np.testing.assert_array_equal(one.draws, 1.0)


def test_the_same_generator_gives_the_same_interval_and_another_does_not():
    values = generator(1).standard_normal(
        (1, 20)
    )  # two seeds' t interval would be the wider, and draws nothing

    def interval(seed: int) -> tuple[float, float]:
        found = statistics.estimate(mean, values, task=np.arange(20), rng=generator(seed), samples=100)
        return found.interval()

    assert interval(0) == interval(0)
    assert interval(0) != interval(1)


def test_pieces_of_the_bootstrap_do_not_change_it(monkeypatch):
    values = generator(1).standard_normal((2, 20))

    def draws() -> np.ndarray:
        return statistics.estimate(mean, values, task=np.arange(20), rng=generator(), samples=100).draws

    whole = draws()
    monkeypatch.setattr(statistics, "_VALUES_AT_ONCE", 300)
    np.testing.assert_array_equal(draws(), whole)


def test_learners_that_are_not_finite_everywhere_are_left_out_of_all_arms():
    one, other = np.arange(6.0)[None], np.ones((2, 6))
    other[1, 5] = np.nan
    found = statistics.estimate(
        lambda a, b: mean(a - b), one, other, task=np.arange(6), rng=generator(), samples=20
    )
    assert found.num_learners == 5
    assert found.value == pytest.approx(np.mean(np.arange(5)) - 1)


def test_with_nothing_finite_the_estimate_and_its_interval_are_nan():
    found = statistics.estimate(mean, np.full((1, 3), np.nan), task=np.arange(3), rng=generator(), samples=20)
    assert np.isnan([found.value, *found.interval()]).all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_learner_gives_no_interval_however_many_seeds(seeds):
    found = statistics.estimate(mean, np.ones((seeds, 1)), task=np.zeros(1), rng=generator(), samples=20)
    assert found.value == 1
    assert np.isnan(found.interval()).all()
    assert np.isnan(statistics.mean_of([found, found]).interval()).all()


def test_a_resample_takes_whole_numbers_of_learners_of_the_drawn_tasks():
    task = np.array([7, 3, 7, 3, 9, 9])
    drawn = statistics.resample(task, rng=generator(), samples=500)
    assert drawn.shape == (500, 6)
    np.testing.assert_array_equal(
        task[drawn[:, ::2]], task[drawn[:, 1::2]]
    )  # two learners a task, side by side
    counts = np.bincount(drawn.ravel(), minlength=6) / drawn.size
    np.testing.assert_allclose(counts, 1 / 6, atol=0.02)
    assert {tuple(row) for row in np.sort(drawn, axis=1)} != {
        tuple(row) for row in np.sort(drawn[:1], axis=1)
    }


def test_tasks_of_unequal_size_are_resampled_as_wholes():
    task = np.array([0, 0, 0, 1, 2, 2])
    drawn = task[statistics.resample(task, rng=generator(), samples=400)]
    firsts = np.bincount(drawn[:, 0], minlength=3) / 400
    np.testing.assert_allclose(firsts, 1 / 3, atol=0.08)  # tasks are equally likely, whatever their size
    zeros = drawn[drawn[:, 0] == 0]
    assert (zeros[:, :3] == 0).all()  # a drawn task brings all of its learners


def test_the_spread_between_tasks_counts_when_learners_share_tasks():
    effect = np.repeat(generator().standard_normal(8), 16)[None]

    def width(task: np.ndarray) -> float:
        found = statistics.estimate(mean, effect, task=task, rng=generator(), samples=800)
        return float(np.subtract(*found.interval()[::-1]))

    shared, apart = width(np.repeat(np.arange(8), 16)), width(np.arange(128))
    assert shared > 3 * apart  # about the root of 16


def test_seeds_that_meet_the_same_learners_do_not_count_them_twice():
    learners = generator().standard_normal((1, 30))

    def width(seeds: int) -> float:
        values = np.repeat(learners, seeds, axis=0)
        found = statistics.estimate(mean, values, task=np.arange(30), rng=generator(), samples=800)
        return float(np.subtract(*found.interval()[::-1]))

    assert width(4) == pytest.approx(width(1))


def test_the_bootstrap_of_a_normal_sample_covers_its_mean_and_is_as_wide_as_the_closed_form():
    samples = generator(2).standard_normal((300, 1, 40))
    intervals = np.array(
        [
            statistics.estimate(mean, one, task=np.arange(40), rng=generator(number), samples=400).interval()
            for number, one in enumerate(samples)
        ]
    )
    covered = ((intervals[:, 0] < 0) & (intervals[:, 1] > 0)).mean()
    assert 0.90 < covered < 0.98  # 95%, less what the percentile method loses at 40; Monte-Carlo error 1.3%
    widths = intervals[:, 1] - intervals[:, 0]
    assert widths.mean() == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.04)


def test_on_one_task_it_is_rliables_stratified_bootstrap():
    scores = generator(3).gamma(2.0, size=(60, 1))  # rliable's axes: runs, tasks
    rng = generator(4)
    draws = []
    for _ in range(4000):
        resampled = np.stack([rng.choice(scores[:, one], size=60) for one in range(scores.shape[1])], axis=1)
        draws.append(scipy.stats.trim_mean(resampled, 0.25, axis=None))
    theirs = np.percentile(draws, [2.5, 97.5])
    ours = statistics.estimate(statistics.iqm, scores.T, task=np.zeros(60), rng=generator(), samples=4000)
    assert ours.value == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None))
    np.testing.assert_allclose(
        ours.interval(), theirs, atol=0.04
    )  # the width is 0.65; Monte-Carlo error 0.012 an end


def t_interval(values: np.ndarray) -> tuple[float, float]:
    return scipy.stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=scipy.stats.sem(values))


def test_the_half_width_over_seeds_is_that_of_scipys_t_interval():
    values = np.array([1.0, 2.0, 4.0])
    assert statistics.seed_half_width(values, 0.95) == pytest.approx(np.diff(t_interval(values))[0] / 2)
    assert statistics.seed_half_width(values[:1], 0.95) == 0.0


def spread(seeds: int, between: float) -> statistics.Estimate:
    values = np.linspace(-between, between, seeds)[:, None] + generator().standard_normal((1, 25))
    return statistics.estimate(mean, values, task=np.arange(25), rng=generator(), samples=400)


def test_what_learners_and_what_seeds_leave_open_are_added_as_squares():
    both, apart = spread(3, between=2.0), spread(3, between=0.0)
    over_learners = np.abs(np.subtract(apart.interval(), apart.value))
    np.testing.assert_allclose(  # all seeds meet the same learners, so that nothing but their spread is added
        np.abs(np.subtract(both.interval(), both.value)),
        np.hypot(over_learners, statistics.seed_half_width(both.seed_values, 0.95)),
    )
    assert both.seed_values.std() > 1.0 > 1e-12 > apart.seed_values.std()


@pytest.mark.parametrize("seeds", [2, 7, 8, 20])
def test_the_spread_of_seeds_is_never_left_out_however_many_there_are(seeds):
    many = spread(seeds, between=2.0)
    half = statistics.seed_half_width(many.seed_values, 0.95)
    assert np.diff(many.interval()) > 2 * half
    assert half == pytest.approx(np.diff(t_interval(many.seed_values))[0] / 2)


def test_few_tasks_stretch_the_percentile_interval_to_what_students_t_gives():
    values = generator(5).standard_normal((1, 6))
    found = statistics.estimate(mean, values, task=np.arange(6), rng=generator(), samples=40_000)
    closed = t_interval(values[0])
    np.testing.assert_allclose(found.interval(), closed, atol=0.1 * np.ptp(closed))
    shared = statistics.estimate(mean, values, task=np.arange(6) // 2, rng=generator(), samples=4000)
    assert (found.num_units, shared.num_units) == (6, 3)
    single = statistics.estimate(mean, values, task=np.zeros(6), rng=generator(), samples=4000)
    assert single.num_units == 6  # a single task is what it is: its learners are the sample


def test_a_seed_whose_own_estimate_is_no_number_leaves_everything_open():
    found = statistics.Estimate(
        value=1.0, draws=np.ones(50), seed_values=np.array([1.0, np.nan]), num_learners=5
    )
    assert found.interval() == (-np.inf, np.inf)


def test_a_draw_that_is_no_number_widens_the_interval_to_both_sides():
    draws = np.r_[np.full(10, np.nan), np.zeros(90)]
    found = statistics.Estimate(value=0.0, draws=draws, seed_values=np.zeros(1), num_learners=5)
    assert found.interval() == (-np.inf, np.inf)


def normal_estimate(value: float, error: float) -> statistics.Estimate:
    draws = value + error * scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    return statistics.Estimate(value=value, draws=draws, seed_values=np.zeros(1), num_learners=10**6)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.04], [True]),
        ([0.04, 0.04], [False, False]),
        ([0.024, 0.04], [True, True]),  # the second is tested at 0.05 once the first is decided
        ([0.01, 0.03, 0.04], [True, False, False]),
        ([0.06, 0.001, 0.02], [False, True, True]),
        ([], []),
    ],
)
def test_holm_agrees_with_the_step_down_of_p_values(p_values, expected):
    estimates = [normal_estimate(float(scipy.stats.norm.isf(p / 2)), 1.0) for p in p_values]
    assert statistics.holm(estimates, 0.0, confidence=0.95) == expected


def test_the_mean_of_estimates_averages_values_draws_and_seeds():
    one, other = spread(3, 1.0), spread(3, 2.0)
    both = statistics.mean_of([one, other])
    assert both.value == pytest.approx((one.value + other.value) / 2)
    np.testing.assert_allclose(both.seed_values, (one.seed_values + other.seed_values) / 2)
    assert np.isnan(statistics.mean_of([]).value)
    assert np.isnan(statistics.mean_of([one, statistics.nothing()]).value)
    thrice = statistics.mean_of([one, other], weights=[1, 3])
    assert thrice.value == pytest.approx((one.value + 3 * other.value) / 4)
    np.testing.assert_allclose(thrice.draws, (one.draws + 3 * other.draws) / 4)


def test_probability_of_improvement_counts_ties_half():
    assert (
        statistics.probability_of_improvement(np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 3, 2, 3]])) == 0.625
    )


def test_a_share_has_wilsons_interval():
    low, high = statistics.share_interval(8, 8)
    assert (low, high) == pytest.approx((8 / (8 + 1.959964**2), 1.0))
    assert np.isnan(statistics.share_interval(0, 0)).all()
