"""How a file of ours is written, whole or not at all; tried before the work; locked; read, or told missing or damaged.

`kind`, such as "checkpoint" or "result file", begins the one sentence of every error.
"""

from .common import StrPath
from .locks import locked
from .reading import Keys, opened, read_json, read_lines, read_tensors
from .writing import append_line, check_appendable, check_writable, write_bytes, write_json, write_tensors, write_text

__all__ = [
    "Keys",
    "StrPath",
    "append_line",
    "check_appendable",
    "check_writable",
    "locked",
    "opened",
    "read_json",
    "read_lines",
    "read_tensors",
    "write_bytes",
    "write_json",
    "write_tensors",
    "write_text",
]
