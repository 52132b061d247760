"""Vectors and sequences in .npy files: what they become, and every way in which a file can be wrong."""

import io
import os
import resource

import numpy as np
import pytest
import torch

from mm_balance.data.files import DecodeError
from mm_balance.data.npy import HEAD_BYTES, array_facts, read_array


def header(text, version=(1, 0)):
    """The bytes of a file with that header and eight numbers."""
    body = (text + "\n").encode("latin1")
    size = len(body).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + body + np.arange(8, dtype="<f4").tobytes()


def described(shape, descr="<f4", order=False):
    return header(f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}")


def saved(values, **options):
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


@pytest.fixture
def put(tmp_path):
    def write(content):
        path = tmp_path / "x.npy"
        path.write_bytes(content if isinstance(content, bytes) else saved(content))
        return path

    return write


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8", "|i1", "|u1", ">i4", "<i8", "<u2"])
def test_numbers_of_all_kinds_become_float32(put, dtype):
    values = np.arange(6).astype(dtype)
    found, facts = read_array(put(values), "vector", (6,))
    assert found.dtype == np.float32
    assert found.tolist() == [0, 1, 2, 3, 4, 5]
    assert (facts.kind, facts.features, facts.steps, facts.dtype) == ("vector", 6, 1, np.dtype(dtype))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_sequences_are_cut_or_padded_whatever_their_order_in_the_file(put, order, steps):
    values = np.arange(1, 11, dtype=np.float64).reshape(5, 2)
    found, facts = read_array(put(np.asarray(values, order=order)), "sequence", (steps, 2))
    kept = min(steps, 5)
    assert (found[:kept] == values[:kept]).all()
    assert (found[kept:] == 0).all()
    assert (facts.kind, facts.features, facts.steps) == ("sequence", 2, 5)


def test_the_second_version_of_the_format_is_read(put):
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (8,), }"
    assert read_array(put(header(text, (2, 0))), "vector", (8,))[0].tolist() == list(range(8))


BAD = {
    "no array": (b"P1 no array", "cannot be read as a NumPy array"),
    "nothing": (b"", "cannot be read as a NumPy array"),
    "header cut": (saved(np.ones(4))[:40], "cannot be read as a NumPy array"),
    "an archive": (b"PK\x03\x04" + bytes(100), "cannot be read as a NumPy array"),
    "no dictionary": (header("[1, 2]"), "cannot be read as a NumPy array"),
    "code": (header("__import__('os').abort()"), "cannot be read as a NumPy array"),
    "deep": (header("-" * (HEAD_BYTES - 100) + "1"), "cannot be read as a NumPy array"),
    "nested": (header("(" * 3000), "cannot be read as a NumPy array"),
    "a dtype that is none": (described((8,), "<q9"), "cannot be read as a NumPy array"),
    "a shape that is none": (described("(8.0,)"), "cannot be read as a NumPy array"),
    "a header beyond its bound": (header("{" + " " * 2 * HEAD_BYTES + "}"), "cannot be read as a NumPy array"),
    "another version": (header("{}", (3, 0)), "version 3.0 of the format"),
    "objects": (saved(np.array([{}, 1], object), allow_pickle=True), "contains Python objects, which are never loaded"),
    "text": (saved(np.array(["a"])), "contains <U1, where float or int is wanted"),
    "truth values": (saved(np.array([True])), "contains bool, where float or int is wanted"),
    "complex": (saved(np.array([1j])), "contains complex128"),
    "times": (saved(np.array(["2020-01-01"], "M8[s]")), "contains datetime64[s]"),
    "a table": (saved(np.zeros(3, [("x", "f4")])), "where float or int is wanted"),
    "no dimensions": (saved(np.float32(1)), "an array of 0 dimensions"),
    "three dimensions": (saved(np.ones((2, 2, 2))), "an array of 3 dimensions"),
    "no numbers": (saved(np.ones((0,))), "an empty array, of shape (0,)"),
    "no features": (saved(np.ones((3, 0))), "an empty array, of shape (3, 0)"),
    "a negative size": (described((-8,)), "an empty array, of shape (-8,)"),
    "cut": (saved(np.ones(4))[:-8], "truncated: 24 of 32 bytes of numbers are present"),
    "a size that no file has": (described((2**62, 2**62)), "truncated: 32 of"),
    "a sequence": (saved(np.ones((2, 4))), "contains a sequence (array of shape (2, 4)), where a vector is wanted"),
    "other width": (saved(np.ones(5)), "has 5 features, where 4 are wanted"),
    "not a number": (saved(np.array([1, 2, np.nan, 4])), "contains NaN or infinite values (the first at feature 2)"),
    "infinite": (saved(np.array([1, -np.inf, 3, 4])), "contains NaN or infinite values (the first at feature 1)"),
    "too large": (saved(np.array([1, 2, 3, 1e300])), "contains values beyond float32 (the first at feature 3)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_has_a_reason(put, case):
    content, reason = BAD[case]
    with pytest.raises(DecodeError) as caught:
        read_array(put(content), "vector", (4,))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_are_not_unpickled(put, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = put(saved(np.array([Harm()], object), allow_pickle=True))
    with pytest.raises(DecodeError):
        read_array(path, "vector", (1,))
    assert not (tmp_path / "harmed").exists()


def test_sequences_are_refused_for_what_is_kept_of_them(put):
    values = np.ones((4, 2))
    values[2:] = 0
    values[3, 1] = np.nan
    path = put(values)
    assert read_array(path, "sequence", (3, 2))[0].tolist() == [[1, 1], [1, 1], [0, 0]]
    with pytest.raises(DecodeError, match=r"the first at step 3, feature 1"):
        read_array(path, "sequence", (4, 2))
    values[:3] = 0
    with pytest.raises(DecodeError, match="steps of zeros are padding"):
        read_array(put(values), "sequence", (2, 2))


@pytest.mark.parametrize("order", [False, True])
def test_memory_follows_what_is_kept_not_the_size_of_the_file(tmp_path, order):
    path = tmp_path / "long.npy"
    path.write_bytes(described((2**28, 8), order=order))
    os.truncate(path, 2**28 * 32 + 500)  # 8 GiB, of which the disk holds one block
    with open("/proc/self/status") as file:
        now = next(int(line.split()[1]) for line in file if line.startswith("VmData:")) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + 2**27, before[1]))
    try:
        found, facts = read_array(path, "sequence", (10, 8))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert facts.steps == 2**28
    assert torch.from_numpy(found).shape == (10, 8)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DecodeError, match="it is a pipe"):
        array_facts(tmp_path / "pipe.npy")
