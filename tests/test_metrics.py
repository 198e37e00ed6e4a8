"""Scores agree with dense brute force, with scikit-image, and with cases worked out by hand."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from skimage.metrics import contingency_table

from nucleiflow import metrics
from nucleiflow.metrics import Matching

SHAPE = (7, 8)
label_images = arrays.arrays(np.int64, SHAPE, elements=st.integers(0, 5))
pairs = st.tuples(label_images, label_images)
names = st.lists(st.integers(1, 2**32 - 1), min_size=5, max_size=5, unique=True)


def dense_iou(truth, found):
    """IoU of every true with every found label, pixel by pixel."""
    return np.array(
        [
            [
                ((truth == t) & (found == f)).sum() / ((truth == t) | (found == f)).sum()
                for f in np.unique(found[found > 0])
            ]
            for t in np.unique(truth[truth > 0])
        ]
    ).reshape(len(np.unique(truth[truth > 0])), len(np.unique(found[found > 0])))


def dense_match(truth, found, iou):
    """Most pairs first, then most IoU, by the dense assignment solver."""
    scores = dense_iou(truth, found)
    good = scores >= iou
    rows, columns = linear_sum_assignment(100.0 * good + scores * good, maximize=True)
    chosen = scores[rows, columns][good[rows, columns]]
    return len(chosen), scores.shape[1] - len(chosen), scores.shape[0] - len(chosen), chosen.sum()


def dense_aji(truth, found):
    """Algorithm 1 of Kumar et al. 2017, word for word."""
    scores = dense_iou(truth, found)
    found_labels = np.unique(found[found > 0])
    shared = union = 0
    used = set()
    for row, label in enumerate(np.unique(truth[truth > 0])):
        mask = truth == label
        if not len(found_labels) or scores[row].max() == 0:
            union += mask.sum()
            continue
        best = found_labels[scores[row].argmax()]
        shared += (mask & (found == best)).sum()
        union += (mask | (found == best)).sum()
        used.add(best)
    union += sum((found == label).sum() for label in found_labels if label not in used)
    return shared / union if union else 1.0


def renamed(labels, table):
    return np.array([0, *table], np.uint32)[labels]


@given(pairs, st.sampled_from([0.01, 0.2, 0.25, 1 / 3, 0.5, 0.55, 0.75, 1.0]))
def test_match_is_the_dense_assignment(images, iou):
    truth, found = images
    one = metrics.match(truth, found, iou)
    hits, extra, missed, total = dense_match(truth, found, iou)
    assert (one.true_positive, one.false_positive, one.false_negative) == (hits, extra, missed)
    if hits:
        assert one.mean_matched_iou == pytest.approx(total / hits)


@given(pairs)
def test_overlaps_are_the_contingency_table(images):
    truth, found = images
    table = contingency_table(truth, found).toarray()[1:, 1:]
    ours = metrics.overlaps(truth, found)
    rebuilt = np.zeros((6, 6))
    truth_at, found_at = ours.truth_labels[ours.truth_index], ours.found_labels[ours.found_index]
    rebuilt[truth_at, found_at] = ours.shared
    np.testing.assert_array_equal(rebuilt[1 : 1 + table.shape[0], 1 : 1 + table.shape[1]], table)
    assert rebuilt.sum() == table.sum()
    np.testing.assert_array_equal(ours.truth_area, [(truth == k).sum() for k in ours.truth_labels])
    np.testing.assert_array_equal(ours.found_area, [(found == k).sum() for k in ours.found_labels])
    assert np.all(ours.shared > 0)


@given(pairs)
def test_kaggle_score_is_the_mean_of_dense_precisions(images):
    truth, found = images
    scores = dense_iou(truth, found)
    total = sum(scores.shape)
    precisions = [
        (scores > k / 20).sum() / (total - (scores > k / 20).sum()) if total else 1.0
        for k in range(10, 20)
    ]
    assert metrics.kaggle_score(truth, found) == pytest.approx(np.mean(precisions))


@given(pairs)
def test_aggregated_jaccard_is_the_published_algorithm(images):
    truth, found = images
    assert metrics.aggregated_jaccard(truth, found) == pytest.approx(dense_aji(truth, found))


@given(pairs)
def test_foreground_scores_are_counts_of_pixels(images):
    a, b = (image > 0 for image in images)
    total = a.sum() + b.sum()
    expected = 2 * (a & b).sum() / total if total else 1.0
    assert metrics.dice(*images) == pytest.approx(expected)
    assert metrics.pixel_accuracy(*images) == pytest.approx((a == b).mean())


@given(pairs, names, names)
def test_the_names_of_labels_do_not_matter(images, truth_names, found_names):
    truth, found = images
    other = renamed(truth, truth_names), renamed(found, found_names)
    assert metrics.kaggle_score(*other) == metrics.kaggle_score(truth, found)
    assert metrics.dice(*other) == metrics.dice(truth, found)
    for iou in (0.1, 0.5, 0.7):
        a, b = metrics.match(*other, iou), metrics.match(truth, found, iou)
        assert a.true_positive == b.true_positive
        assert a.mean_matched_iou == pytest.approx(b.mean_matched_iou)


@given(label_images, names)
def test_an_image_agrees_with_itself_under_any_names(image, table):
    other = renamed(image, table)
    for iou in (0.1, 0.5, 1.0):
        one = metrics.match(image, other, iou)
        assert one == Matching(len(np.unique(image[image > 0])), 0, 0, 1.0)
        assert one.panoptic_quality == one.f1 == one.average_precision == 1.0
    assert metrics.kaggle_score(image, other) == 1.0
    assert metrics.aggregated_jaccard(image, other) == 1.0
    assert metrics.dice(image, other) == metrics.pixel_accuracy(image, other) == 1.0


@given(pairs, st.sampled_from([0.1, 0.5, 0.7]))
def test_swapping_truth_and_found_swaps_precision_and_recall(images, iou):
    a, b = metrics.match(*images, iou), metrics.match(*images[::-1], iou)
    assert (a.precision, a.recall) == (b.recall, b.precision)
    assert a.f1 == b.f1
    assert a.mean_matched_iou == pytest.approx(b.mean_matched_iou)


@given(pairs)
def test_a_stricter_threshold_never_finds_more(images):
    found = [metrics.match(*images, iou).true_positive for iou in (0.05, 0.3, 0.5, 0.51, 0.8, 1.0)]
    assert found == sorted(found, reverse=True)


def test_a_shifted_square_by_hand():
    truth, found = np.zeros((2, 10, 10), int)
    truth[0:4, 0:5] = 1
    found[0:4, 1:6] = 9  # shares 16 of 24 px
    truth[6:8, 0:2] = 2  # missed
    found[6:8, 6:9] = 4  # invented
    one = metrics.match(truth, found, 0.5)
    assert one == Matching(1, 1, 1, 16 / 24)
    assert (one.precision, one.recall, one.f1) == (0.5, 0.5, 0.5)
    assert one.average_precision == 1 / 3
    assert one.segmentation_quality == 16 / 24
    assert one.recognition_quality == 0.5
    assert one.panoptic_quality == pytest.approx(1 / 3)
    assert metrics.kaggle_score(truth, found) == pytest.approx(4 / 10 / 3)  # 0.50 to 0.65
    assert metrics.aggregated_jaccard(truth, found) == 16 / (24 + 4 + 6)
    assert metrics.dice(truth, found) == 2 * 16 / (24 + 26)
    assert metrics.pixel_accuracy(truth, found) == (100 - 4 - 4 - 4 - 6) / 100


def test_two_halves_cannot_both_match_at_one_half():
    truth, found = np.array([[1, 1, 0]]), np.array([[1, 2, 0]])
    assert metrics.match(truth, found, 0.5) == Matching(1, 1, 0, 0.5)
    assert metrics.match(truth, found, 0.51) == Matching(0, 2, 1, 0.0)
    assert metrics.kaggle_score(truth, found) == 0.0


def test_more_pairs_win_over_a_better_pair():
    truth = np.array([[1] * 10 + [2, 2]])
    found = np.array([[3] + [4] * 10 + [0]])  # 1-4: 9/11, 1-3: 1/10, 2-4: 1/11
    both = pytest.approx((1 / 10 + 1 / 11) / 2)
    assert metrics.match(truth, found, 0.05) == Matching(2, 0, 0, both)
    assert metrics.match(truth, found, 0.2) == Matching(1, 1, 1, 9 / 11)


def test_a_ratio_equal_to_the_threshold_matches_but_does_not_score():
    truth = np.ones((1, 20), int)
    found = (np.arange(20) < 11).astype(int)[None]  # IoU 11/20
    assert metrics.match(truth, found, 0.55).true_positive == 1
    assert metrics.kaggle_score(truth, found) == 0.1  # above 0.50 only


def test_many_competitors_agree_with_the_dense_assignment():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:60, :60]
    truth = y // 5 * 12 + x // 5 + 1
    found = (y + 2) // 6 * 20 + (x + 3) // 4 + 1
    found[rng.random((60, 60)) < 0.1] = 0
    for iou in (0.05, 0.2, 0.4):
        hits, extra, missed, total = dense_match(truth, found, iou)
        expected = Matching(hits, extra, missed, pytest.approx(total / hits))
        assert metrics.match(truth, found, iou) == expected


def test_nothing_to_find_and_nothing_found_is_right():
    empty, one = np.zeros((4, 4), np.uint16), np.ones((4, 4), np.uint16)
    assert metrics.match(empty, empty, 0.5) == Matching(0, 0, 0, 1.0)
    for score in (
        metrics.kaggle_score,
        metrics.aggregated_jaccard,
        metrics.dice,
        metrics.pixel_accuracy,
    ):
        assert score(empty, empty) == 1.0
        assert score(one, empty) == 0.0
        assert score(empty, one) == 0.0
        assert score(empty[:0], empty[:0]) == 1.0
    for a, b in ((empty, one), (one, empty)):
        wrong = metrics.match(a, b, 0.5)
        assert wrong.precision == wrong.recall == wrong.f1 == wrong.panoptic_quality == 0.0


@given(st.lists(pairs, max_size=4))
def test_pooled_is_the_matching_of_the_images_side_by_side(images):
    apart = metrics.pooled([metrics.match(*pair, 0.3) for pair in images])
    truth, found = (
        np.hstack(
            [np.zeros((7, 0), int)]
            + [np.where(pair[side], pair[side] + 10 * k, 0) for k, pair in enumerate(images)]
        )
        for side in (0, 1)
    )
    whole = metrics.match(truth, found, 0.3)
    assert apart == Matching(
        whole.true_positive,
        whole.false_positive,
        whole.false_negative,
        pytest.approx(whole.mean_matched_iou),
    )


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.01, float("nan")])
def test_thresholds_that_mean_nothing_are_refused(iou):
    with pytest.raises(ValueError, match="threshold"):
        metrics.match(np.ones((2, 2), int), np.ones((2, 2), int), iou)


@pytest.mark.parametrize("score", [metrics.overlaps, metrics.dice, metrics.pixel_accuracy])
def test_unlike_shapes_are_refused(score):
    with pytest.raises(ValueError, match="shapes must be equal"):
        score(np.ones((2, 3), int), np.ones((3, 2), int))


def test_negative_labels_are_refused():
    with pytest.raises(ValueError, match="label -1 is negative"):
        metrics.overlaps(np.array([[-1, 2]]), np.array([[1, 2]]))


def test_counts_do_not_depend_on_types():
    truth, found = np.array([[0, 3, 3, 7]]), np.array([[3, 3, 0, 7]])
    expected = metrics.match(truth, found, 0.3)
    for kind in (np.uint8, np.uint32, np.int32, np.uint64):
        assert metrics.match(truth.astype(kind), found.astype(np.uint16), 0.3) == expected
