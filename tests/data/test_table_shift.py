from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm

from robcal.base.checks import InputError
from robcal.data.table_shift import TABLE_KINDS, TABLE_SHIFTS, Features, shift_table

TABLE = np.random.default_rng(0).normal([0, 5, -3], [1, 20, 0.1], (4000, 3)).astype(np.float32)
FEATURES = Features.of(TABLE)


def test_features_are_the_columns() -> None:
    for column in range(3):
        values = TABLE[:, column].astype(np.float64)
        assert FEATURES.mean[column] == pytest.approx(values.sum() / 4000, rel=1e-5)
        assert FEATURES.std[column] == pytest.approx(np.sqrt((values**2).mean() - values.mean() ** 2), rel=1e-3)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_distributions(severity: int) -> None:
    """Each kind undone by its own formula leaves standard normal numbers, or the share that it names."""
    noise, missing, scaling = (TABLE_SHIFTS[kind][1][severity - 1] for kind in ("noise", "missing_features", "scaling"))
    for column in range(3):
        moved = shift_table(TABLE, "noise", severity, features=FEATURES, seed=1)[:, column].astype(np.float64)
        drawn = (moved - TABLE[:, column]) / (noise * float(FEATURES.std[column]))
        assert kstest(drawn, norm.cdf).pvalue > 1e-3
        moved = shift_table(TABLE, "scaling", severity, features=FEATURES, seed=1)[:, column].astype(np.float64)
        assert kstest(np.log(moved / TABLE[:, column]) / scaling, norm.cdf).pvalue > 1e-3
        moved = shift_table(TABLE, "missing_features", severity, features=FEATURES, seed=1)[:, column]
        gone = moved != TABLE[:, column]
        assert np.unique(moved[gone]).tolist() == [FEATURES.mean[column]]
        assert gone.mean() == pytest.approx(missing, abs=4 * np.sqrt(missing * (1 - missing) / 4000))


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_pieces_equal_the_whole_and_the_seed_decides(kind: str) -> None:
    whole = shift_table(TABLE[:50], kind, 4, features=FEATURES, seed=3)
    parts = [shift_table(TABLE[a:b], kind, 4, features=FEATURES, seed=3, first_index=a) for a, b in ((0, 17), (17, 50))]
    assert np.array_equal(whole, np.concatenate(parts))
    assert whole.dtype == np.float32
    assert not np.array_equal(whole, shift_table(TABLE[:50], kind, 4, features=FEATURES, seed=4))
    assert not np.array_equal(whole, shift_table(TABLE[:50], kind, 5, features=FEATURES, seed=3))


def test_units_do_not_matter() -> None:
    """A feature in other units is shifted as the same feature in the first ones."""
    units = np.array([1000, 0.5, 4], np.float32)
    for kind in TABLE_KINDS:
        one = shift_table(TABLE, kind, 3, features=FEATURES, seed=0) * units
        other = shift_table(TABLE * units, kind, 3, features=Features.of(TABLE * units), seed=0)
        assert np.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(InputError, match="Did you mean 'noise'"):
        shift_table(TABLE, "noize", 1, features=FEATURES, seed=0)
    with pytest.raises(InputError, match="severity is 6"):
        shift_table(TABLE, "noise", 6, features=FEATURES, seed=0)
    with pytest.raises(InputError, match="one mean a column"):
        shift_table(TABLE[:, :2], "noise", 1, features=FEATURES, seed=0)
