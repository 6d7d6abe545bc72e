"""What a file of torch.save may hold, checked before torch.load looks at it.

`weights_only=True` keeps code out. It still lets a file ask for memory that the file does not have, by compressed
records or by callables such as bytearray(10**12), and it compares no checksums.
"""

from __future__ import annotations

import io
import pickletools
import zipfile

_CALLABLES = {
    "collections OrderedDict",
    "collections Counter",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
_KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_LARGEST_PICKLE = 1 << 20
_ALLOWED = _CALLABLES | {f"torch {kind}Storage" for kind in _KINDS}


def check_archive(data: bytes | memoryview) -> None:
    """Raise unless `data` is what torch.save makes of plain data and dense tensors, with checksums that are right.

    Args:
        data: the whole file.

    Raises:
        ValueError: compressed, repeated or too large records, a wrong checksum, or a pickle that names anything else.
        zipfile.BadZipFile: no archive.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = archive.infolist()
        names = {record.filename for record in records}
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != len(records) or len(pickles) != 1:
            raise ValueError("its records are not those of torch.save")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("its records are compressed")
        if sum(record.file_size for record in records) > len(data):
            raise ValueError("its records are larger than the file")
        if archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE:  # reading it takes a second a megabyte
            raise ValueError(f"it holds more than {_LARGEST_PICKLE} bytes of plain data")
        if (wrong := archive.testzip()) is not None:
            raise ValueError(f"the checksum of record {wrong!r} is wrong")
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4") or (
                opcode.name == "GLOBAL" and argument not in _ALLOWED
            ):
                raise ValueError(f"it names GLOBAL {str(argument).replace(' ', '.', 1)}")
