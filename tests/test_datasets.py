import numpy as np
import pandas as pd
import pytest

from nbgenomics import datasets, genome


@pytest.fixture
def small(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "g.fa").write_text(">chr1\n" + genome.decode(rng.integers(0, 4, 30_000)) + "\n")
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(40) * 700, "end": np.arange(40) * 700 + 200})
    windows = genome.open_genome(tmp_path / "g.fa").windows(regions, 300)
    # a coverage that carries each base's position, so that rows, shifts and flips can be recognised
    coverage = (np.arange(40)[:, None, None] * 100 + np.arange(14)[:, None] + np.array([0.0, 0.5])).astype(np.float32)
    targets = pd.DataFrame({"bound": np.arange(40) % 4 == 0})
    return dict(inputs={"sequence": windows, "dnase": coverage}, targets=targets, regions=regions, strands={"dnase": True}, bin_size={"dnase": 20})


def test_rows_stay_aligned_through_split_and_take(small):
    data = datasets.WindowDataset(**small)
    labels = np.where(np.arange(40) < 20, "train", np.where(np.arange(40) < 30, "valid", "test"))
    train, valid, test = data.split(labels)
    assert [len(part) for part in (train, valid, test)] == [20, 10, 10]
    part = test.take(np.arange(10) % 3 == 0)
    assert part.regions.index.tolist() == part.targets.index.tolist() == [30, 33, 36, 39]
    inputs, targets = part.arrays()
    np.testing.assert_array_equal(inputs["dnase"][:, 0, 0], [3000, 3300, 3600, 3900])
    np.testing.assert_array_equal(inputs["sequence"], small["inputs"]["sequence"][[30, 33, 36, 39]])
    assert targets[:, 0].tolist() == [0, 0, 1, 0]
    assert part.frame().columns.tolist() == ["chrom", "start", "end", "bound"]


def test_split_refuses_windows_that_overlap_across_splits(small):
    small["regions"] = small["regions"].assign(start=np.arange(40) * 250, end=np.arange(40) * 250 + 200)
    data = datasets.WindowDataset(**small)
    labels = np.where(np.arange(40) % 2 == 0, "train", np.where(np.arange(40) % 4 == 1, "valid", "test"))
    with pytest.raises(ValueError, match="overlap windows of another split"):
        data.split(labels)
    assert len(data.split(labels, check=False).train) == 20
    with pytest.raises(ValueError, match="labels are 'train', 'valid', 'test' or '', got 'val'"):
        data.split(np.where(labels == "valid", "val", labels))


def test_the_leakage_check_knows_how_wide_coverage_is(small):
    """14 bins are 14 bp wide to whoever is not told that a bin has 20."""
    labels = np.where(np.arange(40) < 20, "train", np.where(np.arange(40) < 30, "valid", "test"))
    with pytest.raises(ValueError, match=r"how wide is the input 'dnase'\? Say with bin_size="):
        datasets.WindowDataset(**small | {"bin_size": None}).split(labels)
    with pytest.raises(ValueError, match="overlap windows of another split"):
        datasets.WindowDataset(**small | {"bin_size": {"dnase": 100}}).split(labels)


@pytest.mark.parametrize("length", [9, 16])
def test_a_crop_has_even_margins(small, length):
    with pytest.raises(ValueError, match=f"crop of 'dnase': {length} positions cannot be cut from the middle of 14"):
        datasets.WindowDataset(**small, crop={"dnase": length})


def test_lengths_must_agree(small):
    with pytest.raises(ValueError, match=r"'targets': 39"):
        datasets.WindowDataset(**small | {"targets": small["targets"][1:]})


def test_flip_is_an_involution_and_swaps_strands(small):
    batch, _ = datasets.WindowDataset(**small)[:5]
    flipped = datasets.flip(batch, {"dnase": True})
    np.testing.assert_array_equal(flipped["sequence"], genome.reverse_complement(batch["sequence"]))
    np.testing.assert_array_equal(flipped["dnase"], batch["dnase"][:, ::-1, ::-1])
    np.testing.assert_array_equal(datasets.flip(batch, {"dnase": False})["dnase"], batch["dnase"][:, ::-1])
    for name, again in datasets.flip(flipped, {"dnase": True}).items():
        np.testing.assert_array_equal(again, batch[name])
    with pytest.raises(ValueError, match="say with strands="):
        datasets.flip(batch, {})


def test_flip_swaps_the_strands_of_each_experiment():
    tracks = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    assert datasets.flip({"dnase": tracks}, {"dnase": True})["dnase"].ravel().tolist() == [1, 0, 3, 2]
    with pytest.raises(ValueError, match="3 tracks, which cannot be pairs of strands"):
        datasets.flip({"dnase": tracks[..., :3]}, {"dnase": True})


def test_coverage_of_bytes_is_not_taken_for_codes(small):
    """Binary cut sites fit in uint8, as codes do."""
    cuts = np.random.default_rng(0).integers(0, 2, (40, 14, 2)).astype(np.uint8)
    np.testing.assert_array_equal(datasets.flip({"cuts": cuts}, {"cuts": True})["cuts"], cuts[:, ::-1, ::-1])
    data = datasets.WindowDataset({"cuts": cuts}, small["targets"], small["regions"])
    np.testing.assert_array_equal(data.features(), cuts.reshape(40, -1))


def test_augmentation_is_drawn_once_for_all_inputs(small):
    """Janggu drew the flip of each input apart, so that DNA and coverage of one sample disagreed."""
    data = datasets.WindowDataset(**small, crop={"sequence": 200, "dnase": 10}).augment(datasets.random_shift(40), datasets.random_flip)
    seen = set()
    for inputs, targets in data.batches(8, shuffle=True, seed=1):
        for sequence, dnase, target in zip(inputs["sequence"].numpy(), inputs["dnase"].numpy(), targets.numpy(), strict=True):
            row = int(dnase.min() // 100)
            flipped = dnase[0, 0] > dnase[-1, 0]
            assert dnase[0, 0] % 1 == (0.5 if flipped else 0)  # strands swapped together with the bins
            shift = int(dnase.min() - row * 100 - 2) * 20  # bins of 20 bp, margin 2
            window = small["inputs"]["sequence"][row][50 + shift : 250 + shift]
            np.testing.assert_array_equal(sequence, genome.reverse_complement(window) if flipped else window)
            assert target[0] == (row % 4 == 0)
            seen.add((flipped, shift))
    assert {shift for _, shift in seen} == {-40, -20, 0, 20, 40} and {flipped for flipped, _ in seen} == {True, False}


def test_a_shift_needs_its_margin(small):
    data = datasets.WindowDataset(**small, crop={"sequence": 200, "dnase": 12}).augment(datasets.random_shift(40))
    with pytest.raises(Exception, match="needs a margin of 40 bp on both sides of the input 'dnase', which has 20 bp"):
        next(iter(data.batches(8, shuffle=True)))


def test_batches_repeat_with_a_seed_and_differ_between_passes(small):
    data = datasets.WindowDataset(**small).augment(datasets.random_flip)

    def passes(seed):
        batches = data.batches(8, shuffle=True, seed=seed)
        return [np.concatenate([inputs["dnase"].numpy() for inputs, _ in batches]) for _ in range(2)]

    first, second = passes(1)
    again, _ = passes(1)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any() and (first != passes(2)[0]).any()


def test_unshuffled_batches_hold_every_row_in_order(small):
    data = datasets.WindowDataset(**small, crop={"sequence": 200})
    batches = data.batches(16)
    assert int(batches.cardinality()) == 3
    np.testing.assert_array_equal(np.concatenate([targets for _, targets in batches]), data.arrays()[1])
    np.testing.assert_array_equal(np.concatenate([x["sequence"] for x in data.batches(16, targets=False)]), small["inputs"]["sequence"][:][:, 50:250])


def test_scikit_learn_takes_the_features(small):
    from sklearn.linear_model import LogisticRegression

    data = datasets.WindowDataset(**small)
    table = data.features()
    assert table.shape == (40, 300 * 4 + 14 * 2) and table.dtype == np.float32
    np.testing.assert_array_equal(table[:, :1200].reshape(40, 300, 4).argmax(-1)[1], small["inputs"]["sequence"][1])
    assert LogisticRegression(max_iter=50).fit(table, data.targets.bound).score(table, data.targets.bound) > 0.5


@pytest.mark.parametrize("given", [np.uint8, bool, np.int64, np.float64])
def test_small_targets_stay_small_and_leave_as_floats(small, given):
    """Hundreds of labels for millions of rows must not become float32 at once."""
    targets = pd.DataFrame({"a": np.arange(40) % 2, "b": np.arange(40) % 3 == 0}).astype({"a": given, "b": bool if given is bool else np.uint8})
    data = datasets.WindowDataset(**small | {"targets": targets})
    part = data.take(np.arange(5, 25))
    kept = np.uint8 if given in (np.uint8, bool) else np.float32
    for one, rows in ((data, slice(None)), (part, slice(5, 25))):
        assert one.targets.dtypes.eq(kept).all()
        np.testing.assert_array_equal(one.targets, targets[rows])
        assert one.arrays()[1].dtype == one[:3][1].dtype == np.float32
        np.testing.assert_array_equal(one.arrays()[1], targets[rows].astype(float))
    for shuffle in (False, True):
        for _, values in part.batches(7, shuffle=shuffle):
            assert values.dtype == np.float32


def test_small_targets_are_not_copied_for_all_rows(small):
    targets = pd.DataFrame(np.ones((40, 9), np.uint8), copy=False)
    data = datasets.WindowDataset(**small | {"targets": targets})
    assert np.shares_memory(data.targets.to_numpy(), targets.to_numpy())
    assert data.take(np.arange(20)).targets.to_numpy().flags.c_contiguous  # rows of a batch lie together
