import json
import warnings

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from nbgenomics import normalize

NAMES = list(normalize.BY_NAME)


@pytest.fixture
def counts():
    rng = np.random.default_rng(1)
    return rng.negative_binomial(0.5, 0.02, size=(300, 22, 4)).astype(np.float32) * np.array([1, 2, 5, 100], np.float32)


def test_zscore_is_scikit_learns(counts):
    flat = counts.reshape(-1, 4).astype(np.float64)
    ours = normalize.ZScore().fit(counts[:200]).transform(counts)
    theirs = StandardScaler().fit(flat[: 200 * 22]).transform(flat).reshape(counts.shape)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    logs = normalize.LogZScore().fit(counts[:200]).transform(counts)
    theirs = StandardScaler().fit(np.log1p(flat[: 200 * 22])).transform(np.log1p(flat)).reshape(counts.shape)
    np.testing.assert_allclose(logs, theirs, rtol=1e-6, atol=1e-6)


def test_what_each_does(counts):
    np.testing.assert_array_equal(normalize.Identity().fit_transform(counts), counts)
    np.testing.assert_allclose(normalize.TPM().fit_transform(counts).sum(axis=(0, 1), dtype=float), 1e6, rtol=1e-5)
    np.testing.assert_allclose(normalize.Log().fit_transform(counts), np.log1p(counts.astype(float)), rtol=1e-6)
    trimmed = normalize.PercentileTrim(90).fit_transform(counts)
    for track in range(4):
        assert trimmed[..., track].max() == np.float32(np.percentile(counts[..., track].astype(float), 90))
    np.testing.assert_array_equal(trimmed[trimmed < trimmed.max(axis=(0, 1))], counts[trimmed < trimmed.max(axis=(0, 1))])


def test_tpm_removes_depth(counts):
    deep = normalize.TPM().fit_transform(counts * 7)
    np.testing.assert_allclose(deep, normalize.TPM().fit_transform(counts), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_learns_from_the_training_rows_only(name, counts):
    train = counts[:100]
    fitted = normalize.make(name).fit(train)
    before = json.dumps(fitted.state())
    other = counts.copy()
    other[100:] *= 50
    np.testing.assert_array_equal(fitted.transform(other)[:100], fitted.transform(train))
    assert json.dumps(fitted.state()) == before


@pytest.mark.parametrize("name", NAMES)
def test_row_order_chunks_and_arguments_do_not_matter(name, counts, monkeypatch):
    original = counts.copy()
    order = np.random.default_rng(0).permutation(len(counts))
    whole = normalize.make(name).fit(counts).transform(counts)
    np.testing.assert_allclose(normalize.make(name).fit(counts[order]).transform(counts), whole, rtol=1e-6)
    monkeypatch.setattr(normalize, "CHUNK", 500)
    np.testing.assert_allclose(normalize.make(name).fit(counts).transform(counts), whole, rtol=1e-6)
    np.testing.assert_array_equal(counts, original)
    flat = normalize.make(name).fit(counts.reshape(-1, 4)).transform(counts.reshape(-1, 4))
    np.testing.assert_allclose(flat.reshape(counts.shape), whole, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_json_bit_for_bit(name, counts):
    fitted = normalize.make(name).fit(counts[:120])
    again = normalize.from_state(json.loads(json.dumps(fitted.state())))
    np.testing.assert_array_equal(again.transform(counts), fitted.transform(counts))
    assert repr(again) == repr(fitted)
    unfitted = normalize.from_state(json.loads(json.dumps(normalize.make(name).state())))
    with pytest.raises(ValueError, match="not fitted"):
        unfitted.transform(counts)


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1, 1e7 + 0.25])
@pytest.mark.parametrize("name", ["zscore", "zlog"])
def test_constant_track_becomes_zeros_with_a_warning(name, value, counts):
    counts = counts.astype(np.float64)
    counts[..., 2] = value
    with pytest.warns(UserWarning, match=r"track 2 .* does not vary"):
        out = normalize.make(name).fit_transform(counts)
    assert (out[..., 2] == 0).all() and np.isfinite(out).all()
    assert out[..., 1].std() == pytest.approx(1, rel=1e-4)


def test_empty_track_warns_and_stays_zero(counts):
    counts[..., 0] = 0
    with pytest.warns(UserWarning, match="track 0 .* no counts"):
        out = normalize.TPM().fit_transform(counts)
    assert (out[..., 0] == 0).all() and np.isfinite(out).all()
    with pytest.warns(UserWarning, match="track 0 .* 99th percentile"):
        normalize.PercentileTrim().fit(counts)


def test_varying_tracks_do_not_warn(counts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            normalize.make(name).fit(counts)


def test_float32_sums_do_not_drift():
    # Summed in float32, ten million counts of 1000 + noise lose the noise.
    values = np.random.default_rng(0).normal(1000, 1, size=(200_000, 5, 1)).astype(np.float32)
    fitted = normalize.ZScore().fit(values)
    assert fitted.mean_[0] == pytest.approx(values.astype(float).mean(), rel=1e-12)
    assert fitted.sd_[0] == pytest.approx(values.astype(float).std(), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_errors(name, counts):
    fitted = normalize.make(name).fit(counts)
    with pytest.raises(ValueError, match="fitted on 4 tracks"):
        fitted.transform(counts[..., :2])
    with pytest.raises(ValueError, match="empty array"):
        normalize.make(name).fit(counts[:0])
    assert fitted.transform(counts[:0]).shape == (0, 22, 4)
    counts[7, 3, 1] = np.nan
    for call in (fitted.transform, normalize.make(name).fit):
        with pytest.raises(ValueError, match="row 7, track 1"):
            call(counts)


def test_errors_of_options(counts):
    with pytest.raises(ValueError, match="choose from none, tpm"):
        normalize.make("quantile")
    with pytest.raises(ValueError, match="does not take width"):
        normalize.make("zlog", width=3)
    with pytest.raises(ValueError, match="percentile"):
        normalize.make("trim", percentile=0)
    counts[0, 0, 3] = -2
    for name in ("log", "zlog"):
        with pytest.raises(ValueError, match=r"track 3 goes down to -2"):
            normalize.make(name).fit(counts)
    with pytest.raises(ValueError, match="expects numbers"):
        normalize.make("log").fit(np.array([["a", "b"]]))
