"""Shares of votes, their intervals, the sign test and the agreement, against known answers and a small simulation."""

import numpy as np
import pytest
from scipy import stats

from drivesim import randomness
from drivesim.metrics.preference import agreement, share, sign_test, student, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (81, 263), (100, 100)])
def test_wilson_is_scipys(k, n):
    theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("df", [4, 5, 9, 40, 1000])
def test_students_t_is_scipys(df):
    assert student(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-3)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 5), (9, 1), (1, 9), (63, 37)])
def test_the_sign_test_is_the_exact_binomial(wins, losses):
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected, abs=1e-12)


def test_votes_that_always_agree_on_a_pair_are_worth_one():
    """Four raters who copy each other tell what one of them tells."""
    one = randomness.generator("test", "copies").integers(0, 2, 60)
    alone, copied = share(one, np.ones(60, int)), share(4 * one, np.full(60, 4))
    assert copied.effective == pytest.approx(alone.effective) and copied.votes == 4 * alone.votes
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    split = share(np.full(60, 2), np.full(60, 4))
    assert split.value == 0.5 and split.effective == 240  # never more than the votes that there are


def test_an_interval_is_never_empty_and_no_vote_gives_none():
    unanimous = share(np.full(12, 3), np.full(12, 3))
    assert (unanimous.value, unanimous.high, unanimous.effective) == pytest.approx(
        (1, 1, 12)
    ) and 0.5 < unanimous.low < 0.8
    assert share(np.zeros(4, int), np.zeros(4, int)) is None
    lone = share(np.array([1, 0]), np.array([1, 0]))
    assert lone.low < 0.1 and lone.high == pytest.approx(1)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("p", [0.5, 0.62, 0.9])
@pytest.mark.parametrize("units", [12, 100])
def test_the_interval_covers(units, p, rho):
    """Four raters, whose votes on a pair are correlated by ``rho``: what the interval promises is kept; counting every
    vote as independent would not do."""
    draw = randomness.generator("test", "covers", units, str(p), str(rho))
    covered = naive = 0
    for _ in range(400):
        chance = np.full(units, p) if rho == 0 else draw.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1), units)
        hits = draw.binomial(4, chance)
        found, (low, high) = share(hits, np.full(units, 4)), wilson(hits.mean() / 4, 4 * units)
        covered += found.low <= p <= found.high
        naive += low <= p <= high
    assert covered / 400 > 0.92
    assert rho < 0.8 or naive / 400 < 0.85


def test_krippendorffs_own_example():
    """The reliability data C of his paper, three coders: nominal alpha 0.691."""
    o = 0  # no vote
    coders = np.array(
        [
            [o, o, o, o, o, 3, 4, 1, 2, 1, 1, 3, 3, o, 3],
            [1, o, 2, 1, 3, 3, 4, 3, o, o, o, o, o, o, o],
            [o, o, 2, 1, 3, 4, 4, o, 2, 1, 1, 3, 3, o, 4],
        ]
    )
    counts = np.stack([(coders == answer).sum(0) for answer in range(1, 5)], axis=1)
    assert agreement(counts).alpha == pytest.approx(0.691, abs=5e-4)


def test_agreement_of_known_votes():
    assert agreement(np.array([[3, 0, 0], [0, 0, 3]])).alpha == 1
    assert agreement(np.array([[2, 0, 0], [2, 0, 0]])).same == 1 and agreement(np.array([[2, 0, 0]])).alpha is None
    assert agreement(np.array([[1, 0, 0], [0, 1, 0]])).same is None
    assert agreement(np.array([[2, 1, 0], [1, 1, 1]])).same == pytest.approx(2 / 12)
