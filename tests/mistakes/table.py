"""The page of all mistakes that are tested here, each with its error and its sentence.

python tests/mistakes/table.py > docs/MISTAKES.md
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "MISTAKES.md"


def modules() -> Iterator[ModuleType]:
    """Yield the test modules that have rows, by name."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"mistakes.{path.stem}")
        if hasattr(module, "MISTAKES"):
            yield module


def page() -> str:
    """Return the page, in Markdown."""
    found = list(modules())
    rows = sum(len(module.MISTAKES) for module in found)
    lines = [
        "# What goes wrong, and what is said then",
        "",
        f"{rows} mistakes, each made by a test; `python tests/mistakes/table.py > docs/MISTAKES.md` writes this page.",
    ]
    for module in found:
        title = module.__doc__.splitlines()[0].rstrip(".")
        lines += ["", f"## {title}", "", "| mistake | error | sentence |", "|---|---|---|"]
        lines += [
            f"| {_cell(mistake.what)} | {mistake.error.__name__} | `{_cell(mistake.says)}` |"
            for mistake in module.MISTAKES
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    sys.stdout.write(page())
