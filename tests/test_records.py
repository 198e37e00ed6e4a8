"""Records of arrays: what is written is read, and nothing else is taken for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nucleiflow import records
from nucleiflow.errors import StoreError

NUMBERS = st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_])
SOME = NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0)))
MADE = {"first": np.arange(7), "name": np.array(["ab", "c"]), "none": np.zeros((0, 3))}


@given(st.dictionaries(st.text(max_size=5), SOME, max_size=4), st.booleans())
def test_arrays_come_back_as_they_were(given, plain):
    found = records.unpack(records.pack(given, plain=plain))
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.writeable


@pytest.mark.parametrize("plain", [False, True])
def test_damage_anywhere_is_told_in_one_line(tmp_path, plain):
    whole, place = records.pack(MADE, plain=plain), tmp_path / "3.rec"
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            place.write_bytes(damaged)
            with pytest.raises(StoreError, match=r"3\.rec is damaged .*--restart") as caught:
                records.get_arrays(place)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plain", [False, True])
def test_numbers_lie_where_they_can_be_read_in_place(tmp_path, plain):
    mixed = {"odd": np.arange(3, dtype=np.uint8), "one": np.ones(1, np.uint16), "most": np.ones(5)}
    records.put_arrays(tmp_path / "1.rec", mixed, plain=plain)
    found = records.get_arrays(tmp_path / "1.rec")
    assert all(one.flags.aligned and one.flags.writeable for one in found.values())
    whole = {id(one.base.base.obj) for one in found.values()}
    assert len(whole) == 1, "nothing was copied"


def test_noise_is_not_packed_where_it_would_cost_more_than_it_saves():
    noise = {"noise": np.random.default_rng(0).integers(0, 256, 1 << 16).astype(np.uint8)}
    flat = {"flat": np.zeros(1 << 16, np.uint8)}
    assert len(records.pack(flat)) < 500 < 1 << 16 < len(records.pack(flat, plain=True))
    assert len(records.pack(noise, plain=True)) < (1 << 16) + 100


def test_a_record_that_claims_much_takes_no_memory(tmp_path):
    header = b'[["a", "<f8", [1000000000, 1000000000]]]'
    place = tmp_path / "3.rec"
    for magic in (records.MAGIC, records.PLAIN):
        place.write_bytes(magic + bytes(4) + len(header).to_bytes(4, "little") + header)
        with pytest.raises(StoreError, match="are the most"):
            records.get_arrays(place)
