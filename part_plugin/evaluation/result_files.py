"""The files of a result: their names, what is in the one that is read back, and whether it is the same again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import StrPath, read_json
from ..short import short
from .content import COUNT, LABELS, LIST, NAME, NUMBER, OPTIONAL_NUMBER, TEXTS, check_entries

FORMAT = 1
_KEYS = {
    "model": str,
    "eps": int | float,
    "seed": int,
    "card": dict,
    "warnings": list,
    "labels": list,
    "results": list,
    "gradients": dict | None,
    "corruptions": dict | None,
}
_KINDS = {"model": NAME, "eps": NUMBER, "seed": COUNT, "warnings": TEXTS, "labels": LABELS, "results": LIST}
_LATER = {"wall_seconds": OPTIONAL_NUMBER}  # not in the files of earlier releases


def result_files(path: StrPath) -> list[tuple[str, Path]]:
    """Return kind and name of the three files of a result.

    Args:
        path: theirs, without their endings.

    Raises:
        ValueError: a path that has no last name.
    """
    base = Path(path)
    if base.name in ("", ".."):
        raise ValueError(f"path={os.fspath(path)!r} has no name for result files; give one, as in results/name")
    kinds = {"json": "result file", "md": "report", "csv": "table"}
    return [(kind, base.with_name(f"{base.name}.{end}")) for end, kind in kinds.items()]


def read_result(path: StrPath) -> dict[str, Any]:
    """Return the content of a result file; what is inside of its parts has not been checked.

    Args:
        path: JSON file.

    Raises:
        FileNotFoundError: no such file.
        OSError: a directory, or it cannot be read.
        ValueError: not a result file, a damaged one, or one of another version.
    """
    content = read_json("result file", path, FORMAT, _KEYS)
    try:
        known = {name: content[name] for name in (*_KINDS, *_LATER) if name in content}
        check_entries(known, _KINDS, _LATER)
    except ValueError as error:
        raise ValueError(f"result file {os.fspath(path)!r} is damaged: {error}") from error
    return content


def check_same(path: Path, card: Mapping[str, Any]) -> None:
    """Raise if a result file is there that holds something else.

    Args:
        path: where it may be.
        card: what its card must hold.

    Raises:
        FileExistsError: it holds something else.
        OSError: it cannot be read.
        ValueError: it is damaged or not one of part_plugin's.
    """
    if not path.exists():
        return
    content = read_result(path)
    for name, value in card.items():
        if (found := content["card"].get(name)) != value:
            raise FileExistsError(
                f"result file {str(path)!r} holds another evaluation ({content['model']}), with {name}={short(found)}, "
                f"not {short(value)}; overwrite it or choose another name"
            )
