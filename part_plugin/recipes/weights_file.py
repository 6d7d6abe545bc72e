"""A checkpoint's bytes: a safetensors file, which safetensors itself reads, with a description and two checksums.

The header's metadata hold one entry, "part_plugin": JSON that begins with the number of the format, the SHA-256 of the
header with zeros in the place of this digest, and the SHA-256 of the data that follow the header. So the header can be
trusted, and weighed, before the data are read; and a bit that changes anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from ..short import short
from .plain import plain
from .skeleton import Spec

FORMAT = 2
LARGEST_HEADER = 1 << 20
_ZEROS = b"0" * 64
_ANY_FORMAT = re.compile(rb'\{"__metadata__":\{"part_plugin":"\{\\"format\\":(\d{1,9}),')
_START = rb'{"__metadata__":{"part_plugin":"{\"format\":%d,\"sha256\":\"' % FORMAT
_BETWEEN = rb"\",\"data_sha256\":\""
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_DATA_DIGEST = slice(_DIGEST.stop + len(_BETWEEN), _DIGEST.stop + len(_BETWEEN) + 64)
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def encode(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a file.

    Args:
        description: plain data, of which lists and tuples come back as lists.
        tensors: by their names; those that share memory are written each for itself.

    Raises:
        TypeError: `description` holds something else.
        ValueError: names and description are larger than `LARGEST_HEADER`.
    """
    start = {"format": FORMAT, "sha256": "0" * 64, "data_sha256": "0" * 64}
    text = json.dumps(start | plain(description), separators=(",", ":"))
    own = {name: one.detach().cpu().clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}
    data = bytearray(safetensors.torch.save(own, {"part_plugin": text}))
    end = 8 + int.from_bytes(data[:8], "little")
    if end - 8 > LARGEST_HEADER:
        raise ValueError(f"names and description have {end - 8} bytes; at most {LARGEST_HEADER} are allowed")
    data[_DATA_DIGEST] = _sha256(memoryview(data)[end:])
    data[_DIGEST] = _sha256(memoryview(data)[8:end])
    return bytes(data)


def recognises(file: BinaryIO) -> bool:
    """Return whether an open file begins as one that `encode` made, of this format or a later one.

    Args:
        file: open for reading in binary; it is left at its beginning.
    """
    file.seek(0)
    start = file.read(8 + len(_START))
    file.seek(0)
    return _ANY_FORMAT.match(start, 8) is not None


class WeightsFile:
    """The header of an open file, checked, and its tensors when they are asked for.

    Args:
        file: a regular file, open for reading in binary.

    Attributes:
        description: what `encode` was given.
        weights: shapes and dtypes of the tensors, by their names.

    Raises:
        ValueError: it is damaged, or of another format.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(
                f"it is damaged, a header of {length} bytes is announced; at most {LARGEST_HEADER} are read"
            )
        file.seek(0)
        self._header = file.read(8 + length)
        self._size = os.fstat(file.fileno()).st_size
        found = _ANY_FORMAT.match(self._header, 8)
        if found is not None and int(found[1]) != FORMAT:
            raise ValueError(f"it has format {int(found[1])}; this version of part_plugin reads 1 and {FORMAT}")
        if not self._header.startswith(_START, 8) or len(self._header) != 8 + length:
            raise ValueError("it is damaged, its header is cut off or does not begin as it should")
        zeroed = bytearray(self._header)
        zeroed[_DIGEST] = _ZEROS
        if self._header[_DIGEST] != _sha256(zeroed[8:]):
            raise ValueError("it is damaged, the checksum of its header is wrong")
        entries = _parse(self._header[8:])
        metadata = entries.pop("__metadata__")
        if set(metadata) != {"part_plugin"}:
            raise ValueError(f"it is damaged, its metadata are {short(list(metadata))}")
        self.description: dict[str, Any] = _parse(metadata["part_plugin"])
        for name in ("format", "sha256", "data_sha256"):
            del self.description[name]
        self.weights = {name: _spec(name, entry) for name, entry in entries.items()}
        needed = len(self._header) + sum(math.prod(one.shape) * one.dtype.itemsize for one in self.weights.values())
        if self._size != needed:
            raise ValueError(f"it is damaged, {self._size} bytes are there and its header describes {needed}")

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, after comparing their checksum.

        Raises:
            ValueError: they are damaged.
        """
        self._file.seek(0)
        data = self._file.read(self._size + 1)  # it may have grown
        rest = memoryview(data)[len(self._header) :]
        if not data.startswith(self._header) or self._header[_DATA_DIGEST] != _sha256(rest):
            raise ValueError("it is damaged, the checksum of its weights is wrong")
        try:
            return dict(safetensors.torch.load(data))
        except Exception as error:  # safetensors has an error of its own, and torch has others
            raise ValueError(f"it is damaged, {str(error).splitlines()[0]}") from error


def _sha256(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _parse(text: bytes | str) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: it is none, or names something twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"it is damaged, its header cannot be read ({reason})") from error


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{short(name)} is there twice")
        content[name] = value
    return content


def _spec(name: str, entry: Any) -> Spec:
    """Return the shape and dtype of one tensor.

    Raises:
        ValueError: they are not what safetensors writes.
    """
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or len(name) > 512:
        raise ValueError(f"it is damaged, the entry of {short(name)} is not one of a tensor")
    dtype, shape, offsets = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    if type(dtype) is not str or dtype not in _TYPES:
        raise ValueError(f"it is damaged, {short(name)} has dtype {short(dtype)}; {', '.join(_TYPES)} are known")
    if not _are_sizes(shape, 8) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise ValueError(f"it is damaged, shape and data_offsets of {short(name)} are not those of a tensor")
    spec = Spec(tuple(shape), _TYPES[dtype])
    if offsets[1] - offsets[0] != math.prod(spec.shape) * spec.dtype.itemsize:
        raise ValueError(f"it is damaged, {short(name)} is {spec}, and has {offsets[1] - offsets[0]} bytes")
    return spec


def _are_sizes(values: Any, most: int) -> bool:
    return isinstance(values, list) and len(values) <= most and all(type(n) is int and 0 <= n < 2**63 for n in values)
