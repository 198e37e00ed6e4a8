"""True and found labels -> how well the nuclei agree. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

Labels = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The thresholds 0.50, 0.55 .. 0.95 as the nearest doubles, so that a ratio of 11/20 is 0.55.
KAGGLE_IOU = tuple(k / 20 for k in range(10, 20))


@dataclass(frozen=True, slots=True)
class Matching:
    """Counts after pairing true and found nuclei one to one, and the mean IoU of the pairs.

    A ratio of nothing to nothing is 1.0: an empty answer to an empty image is right.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    mean_matched_iou: float

    @property
    def precision(self) -> float:
        return self._share(self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return self._share(self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        wrong = self.false_positive + self.false_negative
        return self._share(self.true_positive + wrong / 2)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), as StarDist and Cellpose report it."""
        return self._share(self.true_positive + self.false_positive + self.false_negative)

    @property
    def mean_true_iou(self) -> float:
        """Mean IoU of all true nuclei, 0 for a missed one: StarDist's mean_true_score."""
        return self.mean_matched_iou * self.recall

    @property
    def segmentation_quality(self) -> float:
        return self.mean_matched_iou

    @property
    def recognition_quality(self) -> float:
        return self.f1

    @property
    def panoptic_quality(self) -> float:
        """SQ x RQ (Kirillov et al. 2019); the paper matches at IoU > 0.5."""
        return self.segmentation_quality * self.recognition_quality

    def _share(self, whole: float) -> float:
        nothing = self.true_positive + self.false_positive + self.false_negative == 0
        return 1.0 if nothing else self.true_positive / whole if whole else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Labels with their areas (px), and each pair of labels that share pixels.

    `truth_labels`, `truth_area` (n,) and `found_labels`, `found_area` (m,) are sorted by label.
    `truth_index`, `found_index`, `shared` (k,) are the pairs, sorted, and the pixels they share.
    """

    truth_labels: Labels
    truth_area: Ints
    found_labels: Labels
    found_area: Ints
    truth_index: Ints
    found_index: Ints
    shared: Ints

    @property
    def union(self) -> Ints:
        """Pixels (k,) in either label of each pair."""
        areas: Ints = self.truth_area[self.truth_index] + self.found_area[self.found_index]
        return areas - self.shared

    @property
    def iou(self) -> Floats:
        """Intersection over union (k,) of each pair, in 0 < iou <= 1."""
        return self.shared / self.union

    def matching(self, iou: float) -> Matching:
        """Pair the labels one to one at IoU >= `iou`; see `match`."""
        return self._counted(self.iou[self._paired(iou)])

    def unmatched(self, iou: float) -> tuple[Labels, Labels]:
        """True labels that are missed and found ones that are wrong at IoU >= `iou`, sorted."""
        kept = self._paired(iou)
        missed = np.delete(self.truth_labels, self.truth_index[kept])
        return missed, np.delete(self.found_labels, self.found_index[kept])

    def kaggle_score(self) -> float:
        """See the function of this name."""
        scores = self.iou
        counts = [self._counted(scores[scores > iou]) for iou in KAGGLE_IOU]
        return sum(count.average_precision for count in counts) / len(counts)

    def aggregated_jaccard(self) -> float:
        """See the function of this name."""
        shared, union = self.aggregated_pixels()
        return shared / union if union else 1.0

    def aggregated_pixels(self) -> tuple[int, int]:
        """Intersection and union (px) of which AJI is the ratio; those of many images add up."""
        order = np.lexsort((self.found_index, -self.iou, self.truth_index))
        taken, first = np.unique(self.truth_index[order], return_index=True)
        best = order[first]
        shared = int(self.shared[best].sum())
        union = int(self.union[best].sum())
        union += int(np.delete(self.truth_area, taken).sum())
        union += int(np.delete(self.found_area, self.found_index[best]).sum())
        return shared, union

    def _paired(self, iou: float) -> Ints:
        """Positions of the pairs (k,) that are kept, one to one, at IoU >= `iou`."""
        if not 0 < iou <= 1:
            raise ValueError(f"iou is {iou}: a threshold lies in 0 < iou <= 1")
        scores = self.iou
        pairs = np.flatnonzero(scores >= iou)
        truth, found = self.truth_index[pairs], self.found_index[pairs]
        kept: Ints = pairs[_one_to_one(truth, found, scores[pairs])]
        return kept

    def _counted(self, ious: Floats) -> Matching:
        """The counts when pairs with these `ious` are the true positives."""
        hits, truth, found = len(ious), len(self.truth_labels), len(self.found_labels)
        mean = float(ious.mean()) if hits else float(truth + found == 0)
        return Matching(hits, found - hits, truth - hits, mean)


def overlaps(truth: Labels, found: Labels) -> Overlaps:
    """Areas and overlaps of two label images (h, w) of any integer type, 0 is none.

    Pixels are first joined into runs along the rows, so the sorting is over runs, not pixels, and
    memory does not grow with the labels' values. Raises ValueError on unlike shapes or labels < 0.
    """
    if truth.shape != found.shape:
        raise ValueError(f"truth is {truth.shape} and found {found.shape}: shapes must be equal")
    starts, lengths = _runs(truth.ravel(), found.ravel())
    truth_labels, truth_run, truth_area = _areas(truth.ravel()[starts], lengths)
    found_labels, found_run, found_area = _areas(found.ravel()[starts], lengths)
    both = (truth_run >= 0) & (found_run >= 0)
    width = max(len(found_labels), 1)
    keys, pair = np.unique(truth_run[both] * width + found_run[both], return_inverse=True)
    return Overlaps(
        truth_labels,
        truth_area,
        found_labels,
        found_area,
        *np.divmod(keys, width),
        _sums(pair, lengths[both], len(keys)),
    )


def match(truth: Labels, found: Labels, iou: float) -> Matching:
    """Pair true and found nuclei (h, w) one to one at IoU >= `iou`, 0 < iou <= 1.

    Above 0.5 a label is in one pair at most, for two labels that each cover more than half of a
    third would overlap. At 0.5 and below labels may compete; then the pairing is the one with most
    pairs and, among those, the largest sum of IoU (as in StarDist), solved on the competitors only.
    """
    return overlaps(truth, found).matching(iou)


def pooled(matchings: Sequence[Matching]) -> Matching:
    """The matching of many images taken as one: counts add, and so do the IoU of the pairs."""
    hits = sum(one.true_positive for one in matchings)
    extra = sum(one.false_positive for one in matchings)
    missed = sum(one.false_negative for one in matchings)
    total = sum(one.true_positive * one.mean_matched_iou for one in matchings)
    mean = total / hits if hits else float(extra + missed == 0)
    return Matching(hits, extra, missed, mean)


def kaggle_score(truth: Labels, found: Labels) -> float:
    """Mean of TP / (TP + FP + FN) over IoU > 0.50, 0.55 .. 0.95: 2018 Data Science Bowl, per image.

    Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7. No nuclei in either image is 1.0.
    """
    return overlaps(truth, found).kaggle_score()


def aggregated_jaccard(truth: Labels, found: Labels) -> float:
    """AJI (Kumar et al. 2017, doi:10.1109/TMI.2017.2677499, algorithm 1), in 0..1.

    Each true nucleus adds its intersection and union with the found one of best IoU, which several
    may share; true nuclei without any and found ones never best add their area to the union.
    """
    return overlaps(truth, found).aggregated_jaccard()


def dice(truth: Labels, found: Labels) -> float:
    """2 |A n B| / (|A| + |B|) of the foregrounds, labels (h, w) > 0; 1.0 when both are empty."""
    a, b = _foregrounds(truth, found)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0


def pixel_accuracy(truth: Labels, found: Labels) -> float:
    """Share of pixels that are foreground in both or in neither; 1.0 without pixels."""
    a, b = _foregrounds(truth, found)
    return float(np.count_nonzero(a == b) / a.size) if a.size else 1.0


def resized(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Labels (h, w) at another size, by the nearest neighbour of each pixel's centre.

    >>> resized(np.array([[1, 2]]), (2, 4))
    array([[1, 1, 2, 2],
           [1, 1, 2, 2]])
    """
    if labels.shape == tuple(shape):
        return labels
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def _foregrounds(truth: Labels, found: Labels) -> tuple[Bools, Bools]:
    if truth.shape != found.shape:
        raise ValueError(f"truth is {truth.shape} and found {found.shape}: shapes must be equal")
    return truth != 0, found != 0


def _runs(truth: Labels, found: Labels) -> tuple[Ints, Ints]:
    """Start and length of the stretches of `truth`, `found` (p,) with one pair of labels each.

    Stretches without a label in either are left out.
    """
    change = np.ones(len(truth) + 1, bool)
    np.not_equal(truth[1:], truth[:-1], out=change[1:-1])
    change[1:-1] |= found[1:] != found[:-1]
    bounds = np.flatnonzero(change)
    starts, lengths = bounds[:-1], np.diff(bounds)
    kept = (truth[starts] != 0) | (found[starts] != 0)
    return starts[kept], lengths[kept]


def _areas(values: Labels, lengths: Ints) -> tuple[Labels, Ints, Ints]:
    """Sorted labels (n,) > 0, the index of each run's label (runs,) or -1, and the areas (n,)."""
    labels, index = np.unique(values, return_inverse=True)
    area = _sums(index, lengths, len(labels))
    if len(labels) and labels[0] < 0:
        raise ValueError(f"label {labels[0]} is negative: labels count from 1, and 0 is none")
    none = int(len(labels) > 0 and labels[0] == 0)
    return labels[none:], index - none, area[none:]


def _sums(index: Ints, lengths: Ints, count: int) -> Ints:
    """Sum of `lengths` per `index`, (count,): doubles hold such counts exactly."""
    return np.bincount(index, lengths, count).astype(np.int64)


def _one_to_one(truth: Ints, found: Ints, scores: Floats) -> Ints:
    """Positions of the pairs (k,) to keep, so that no label is in two.

    Pairs whose two labels have no other pair are kept; the rest compete.
    """
    rivals = (np.bincount(truth)[truth] > 1) | (np.bincount(found)[found] > 1)
    contested = np.flatnonzero(rivals)
    won = contested[_assign(truth[contested], found[contested], scores[contested])]
    return np.concatenate([np.flatnonzero(~rivals), won])


def _assign(truth: Ints, found: Ints, scores: Floats) -> Ints:
    """Positions of the most pairs (k,) that share no label, with the largest sum of `scores`.

    A full matching of least weight in a sparse graph that always has one: each label may stay
    alone, at a cost, on a stand-in, and the stand-ins of a matched pair take each other.
    """
    if not len(scores):
        return np.zeros(0, np.int64)
    truth, found = (np.unique(index, return_inverse=True)[1] for index in (truth, found))
    n, m = int(truth.max()) + 1, int(found.max()) + 1
    rows = np.concatenate([truth, np.arange(n), n + np.arange(m), n + found])
    columns = np.concatenate([found, m + np.arange(n), np.arange(m), m + truth])
    gain = 1 + scores / (2 * min(n, m))  # all scores together weigh less than one more pair
    weights = np.full(len(rows), 2.0)
    weights[: len(gain)] -= gain
    graph = sparse.csr_array((weights, (rows, columns)), shape=(n + m, n + m))
    mates = csgraph.min_weight_full_bipartite_matching(graph)[1]
    kept: Ints = np.flatnonzero(mates[truth] == found)
    return kept
