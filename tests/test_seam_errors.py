"""What the benchmark beside other packages counts as an error at a seam, on nuclei drawn by hand.

Two nuclei of 4 x 6 px lie side by side, 1 px apart; a third is far.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from seamerrors import Errors, errors

FIRST, SECOND, THIRD = (np.s_[2:6, 1:7], np.s_[2:6, 8:14], np.s_[10:14, 1:7])
NUCLEI = 3


def drawn():
    labels = np.zeros((16, 16), np.uint32)
    for number, box in enumerate((FIRST, SECOND, THIRD), start=1):
        labels[box] = number
    return labels


def counted(found, **expected):
    kinds = {"same": NUCLEI, "split": 0, "merged": 0, "lost": 0, "changed": 0, "invented": 0}
    assert errors(drawn(), found) == Errors(NUCLEI, **{**kinds, **expected})


def test_other_names_are_no_error():
    counted(drawn() * 7 + (drawn() == 2))


@pytest.mark.parametrize("at", [2, 3, 4, 5, 6])
def test_a_nucleus_cut_anywhere_is_split(at):
    found = drawn()
    found[2:6, at:7] = 9
    counted(found, same=2, split=1)


def test_nuclei_under_one_label_are_merged():
    found = drawn()
    found[SECOND] = 1
    counted(found, same=1, merged=2)


def test_a_nucleus_without_a_label_is_lost():
    found = drawn()
    found[FIRST] = 0
    counted(found, same=2, lost=1)


def test_most_of_a_nucleus_gone_is_lost_and_a_rim_gone_is_changed():
    found = drawn()
    found[2:6, 3:7] = 0
    found[10] = 0
    counted(found, same=1, lost=1, changed=1)


def test_a_label_on_nothing_is_invented():
    found = drawn()
    found[11:14, 9:13] = 9
    counted(found, invented=1)


def test_a_label_that_grew_is_changed():
    found = drawn()
    found[6, 1:7] = 1
    counted(found, same=2, changed=1)


def test_nothing_is_nothing():
    empty = np.zeros((4, 4), int)
    assert errors(empty, empty) == Errors(0, 0, 0, 0, 0, 0, 0)
