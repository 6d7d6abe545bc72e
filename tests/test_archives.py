"""What a file of torch.save may hold."""

import io
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch
from torch import nn

from part_plugin.archives import check_archive


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def written(records, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return buffer.getvalue()


KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)


@pytest.mark.parametrize(
    "content",
    [
        {"a": 1, "b": [2.5, None, True, (1, "x")], "c": OrderedDict(x=1), "d": Counter([1, 2])},
        [torch.ones(2, dtype=kind) for kind in (*KINDS, torch.uint8, torch.bool)],
        nn.BatchNorm2d(2).state_dict(),
        nn.Parameter(torch.ones(2)),
        torch.ones(2, 3).shape,
    ],
)
def test_plain_data_and_dense_tensors(content):
    check_archive(saved(content))


class Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (Call(bytearray, 10**12), "builtins.bytearray|__builtin__.bytearray"),
        (Call(torch.UntypedStorage, 10**12), "torch.storage.UntypedStorage"),
        ({1, 2}, "set"),
        (torch.ones(2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (complex(1, 2), "complex"),
        (torch.device("cpu"), "torch.device"),
    ],
)
def test_everything_else_is_named(content, what):
    with pytest.raises(ValueError, match=f"it names GLOBAL .*({what})"):
        check_archive(saved(content))


GOOD = [("x/data.pkl", b"\x80\x02}."), ("x/data/0", b"1234")]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (written(GOOD, zipfile.ZIP_DEFLATED), "its records are compressed"),
        (written(GOOD[1:]), "its records are not those of torch.save"),
        (written([*GOOD, ("y/data.pkl", b"\x80\x02}.")]), "its records are not those of torch.save"),
        (written([("x/data.pkl", b"0" * ((1 << 20) + 1))]), "it holds more than 1048576 bytes of plain data"),
        (written(GOOD).replace(b"1234", b"1235"), "the checksum of record 'x/data/0' is wrong"),
        (written([("x/data.pkl", b"\x80\x04\x8c\x02os\x8c\x06system\x93.")]), "it names GLOBAL None"),
        (written([("x/data.pkl", b"(S'x'\nios\nsystem\n.")]), "it names GLOBAL os.system"),
        (written([("x/data.pkl", b"\x80\x02\x82\x01.")]), "it names GLOBAL 1"),
    ],
)
def test_archives_that_are_not_torchs(data, what):
    check_archive(written(GOOD))
    with pytest.raises(ValueError, match=what):
        check_archive(data)


def test_a_record_twice():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = written([*GOOD, GOOD[0]])
    with pytest.raises(ValueError, match="its records are not those of torch.save"):
        check_archive(data)


def test_records_cannot_be_larger_than_the_file():
    """Two entries of the directory for one record."""
    data = bytearray(written([("x/data.pkl", b"\x80\x02}."), ("x/data/0", b"1" * 1000), ("x/data/1", b"2")]))
    at = data.rindex(b"PK\x01\x02")
    for field in (20, 24):  # both sizes of the last entry
        data[at + field : at + field + 4] = (10**9).to_bytes(4, "little")
    with pytest.raises(ValueError, match="its records are larger than the file"):
        check_archive(bytes(data))


def test_no_archive():
    with pytest.raises(zipfile.BadZipFile):
        check_archive(b"hello")
