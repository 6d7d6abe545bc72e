"""Data flows one way: who may import whom, read off the source, also inside functions and from strings."""

import ast
import re
import sys
from pathlib import Path

import pytest

import part_plugin

PACKAGE = Path(part_plugin.__file__).parent

# In an order in which each module imports none but those before it.
CORE = [
    "deferred",
    "checks",
    "labels",
    "radius",
    "plugins",
    "short",
    "stopping",
    "archives",
    "files.common",
    "files.locks",
    "files.reading",
    "files.writing",
    "files",
    "network",
    "network.view",
    "network.sharding",
    "network.memory",
    "network.replica",
    "network.checkpointing",
    "network.uncompiled",
    "network.isolation",
    "network.batching",
    "network.fold",
    "network.fast",
    "mismatch",
    "layouts",
    "layer_trace",
    "layer_search",
    "target_layers",
    "cam_methods",
    "map_sources",
    "cam",
    "radii",
    "rules",
    "budget",
    "pixel_budget",
    "attacks",
    "attacks.projection",
    "attacks.pixel_ag",
    "attacks.change_of_variable",
    "attacks.minimum_margin",
    "objectives",
    "masks",
    "schedule",
    "scheduled_budget",
    "part",
]
# Each may import those below it in this order; `plots` draws what the core and the evaluation give.
LAYERS = ["core", "adapters", "evaluation", "plots", "recipes", "commands", "cli"]


def modules_of(package):
    """Return the modules of a package by their dotted name within it, the package itself as ''."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name, path, root):
    """Yield (module, whether for type checkers alone) of all that a module imports, in whatever way and place."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [root, *(part for part in package if part)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{whole}.{alias.name}" for alias in node.names]  # a module or a name in one
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "?"
            level = len(text) - len(text.lstrip("."))
            base = package[: len(package) - level + 1] if level else []
            targets = [".".join([*base, text.lstrip(".")])]
        else:
            continue
        for target in targets:
            yield target, id(node) in typing_only


def inner(target, root, modules):
    """Return the module of the package that an import is of, or None."""
    if target.split(".")[0] != root:
        return None
    parts = target.split(".")[1:]
    while parts and ".".join(parts) not in modules:
        parts.pop()
    return ".".join(parts)


def layer(name):
    top = re.sub(r"^cli_\w+", "commands", name.split(".")[0])
    return top if top in LAYERS else "core"


def toolkit(name):
    """Return which toolkit's adapter a module is, or None."""
    parts = name.split(".")
    return parts[1] if parts[0] == "adapters" and len(parts) > 1 else None


def violations(package, core=CORE):
    """Return a sentence for each import that runs against the order, and one for each cycle."""
    root, modules = package.name, modules_of(package)
    said, graph = [], {}
    for name, path in modules.items():
        graph[name] = set()
        for target, typing_only in imports_of(name, path, root):
            other = inner(target, root, modules)
            if other is None:
                if layer(name) == "core" and name and not allowed_outside(target, typing_only):
                    said.append(f"{name} imports {target}")
                continue
            if not name or other == name or target == f"{root}.__version__":
                continue  # the package itself puts everything together, lazily
            if other and not typing_only:
                graph[name].add(other)
            if wrong(name, other, core):
                said.append(f"{name} imports {other or root}")
    said += [
        f"{name} is no core module that is known"
        for name in modules
        if name and layer(name) == "core" and name not in core
    ]
    return said + cycles(graph)


def allowed_outside(target, typing_only):
    top = target.split(".")[0]
    return top in sys.stdlib_module_names or top in ("torch", "numpy") or (top == "typing_extensions" and typing_only)


def wrong(name, other, core):
    if not other:  # the package itself, which nobody needs
        return True
    if layer(name) == layer(other) == "core":
        return name in core and other in core and core.index(other) > core.index(name)
    if layer(name) == layer(other) == "adapters":
        return toolkit(other) is not None and toolkit(name) != toolkit(other)
    return LAYERS.index(layer(other)) > LAYERS.index(layer(name))


def cycles(graph):
    """Return a sentence for each cycle that a walk over the graph meets."""
    found, done = [], set()

    def walk(name, trail):
        if name in trail:
            found.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for other in sorted(graph[name]):
                walk(other, [*trail, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return found


def test_no_import_runs_back():
    assert violations(PACKAGE) == []


def test_every_module_of_the_core_is_listed_in_its_place():
    """The list is short of nothing; `files` alone may not be there."""
    found = {name for name in modules_of(PACKAGE) if name and layer(name) == "core"}
    assert set(CORE) - found <= {"files"}
    assert found <= set(CORE)
    assert len(CORE) == len(set(CORE))


MADE_UP = {
    "__init__.py": "import importlib\n\ndef __getattr__(name):\n    return importlib.import_module('made_up.part')\n",
    "checks.py": "from __future__ import annotations\nimport math\nimport torch\n",
    "cam.py": "import numpy as np\nfrom .checks import check\n",
    "part.py": "from . import cam\nif TYPE_CHECKING:\n    from typing_extensions import Unpack\n",
    "adapters/__init__.py": "",
    "adapters/art/__init__.py": "from .trainer import Trainer\n",
    "adapters/art/trainer.py": "import art\nfrom ...part import PART\nfrom ...cam import cam\n",
    "adapters/gradcam.py": "import pytorch_grad_cam\nfrom ..checks import check\n",
    "evaluation/__init__.py": "from .. import adapters\nfrom ..adapters.gradcam import x\nfrom ..part import PART\n",
    "recipes/__init__.py": "from ..evaluation import evaluate\n",
    "plots.py": "from .part import PART\nfrom .evaluation import Evaluation\n",
    "cli.py": "from .recipes import x\n\ndef main():\n    from .plots import plot\n",
}


def made_up(folder, changes):
    root = folder / "made_up"
    for name, text in (MADE_UP | changes).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(MADE_UP.get(name, "") + text if name in changes else text)
    return violations(root, ["checks", "cam", "part"])


def test_a_tree_in_order_passes(tmp_path):
    assert made_up(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("cam.py", "import scipy\n", ["cam imports scipy"]),
        ("cam.py", "def f():\n    import torchvision.ops\n", ["cam imports torchvision.ops"]),
        ("cam.py", "from typing_extensions import Unpack\n", ["cam imports typing_extensions.Unpack"]),
        ("cam.py", "import importlib\nimportlib.import_module('art')\n", ["cam imports art"]),
        ("cam.py", "import importlib\nimportlib.import_module(name)\n", ["cam imports ?"]),
        ("cam.py", "from .part import PART\n", ["cam imports part"]),
        ("checks.py", "def f():\n    from . import cam\n", ["checks imports cam"]),
        ("checks.py", "from made_up import cam\n", ["checks imports cam"]),
        ("checks.py", "import made_up.cam\n", ["checks imports cam"]),
        (
            "cam.py",
            "import importlib\nimportlib.import_module('.adapters.art.trainer', 'made_up')\n",
            ["cam imports adapters.art.trainer"],
        ),
        (
            "cam.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .adapters import art\n",
            ["cam imports adapters.art"],
        ),
        (
            "part.py",
            "from .evaluation import e\n",
            ["part imports evaluation"],
        ),
        ("part.py", "from . import plots\n", ["part imports plots"]),
        ("part.py", "from . import PART\n", ["part imports made_up"]),
        ("part.py", "from . import __version__\n", []),
        ("adapters/gradcam.py", "from .art import x\n", ["adapters.gradcam imports adapters.art"]),
        (
            "adapters/gradcam.py",
            "def f():\n    from .art.trainer import x\n",
            ["adapters.gradcam imports adapters.art.trainer"],
        ),
        ("adapters/art/trainer.py", "from ..gradcam import x\n", ["adapters.art.trainer imports adapters.gradcam"]),
        ("adapters/art/trainer.py", "from ...evaluation import x\n", ["adapters.art.trainer imports evaluation"]),
        ("adapters/gradcam.py", "from ..recipes import x\n", ["adapters.gradcam imports recipes"]),
        ("adapters/gradcam.py", "from ..cli import x\n", ["adapters.gradcam imports cli"]),
        ("evaluation/__init__.py", "from ..recipes import x\n", ["evaluation imports recipes"]),
        ("evaluation/__init__.py", "from .. import cli\n", ["evaluation imports cli"]),
        ("recipes/__init__.py", "from ..cli import x\n", ["recipes imports cli"]),
        ("plots.py", "from .recipes import x\n", ["plots imports recipes"]),
        ("plots.py", "from .cli import x\n", ["plots imports cli"]),
        ("other.py", "", ["other is no core module that is known"]),
    ],
)
def test_an_import_that_runs_back_is_found(tmp_path, module, text, said):
    assert [sentence for sentence in made_up(tmp_path, {module: text}) if "->" not in sentence] == said


@pytest.mark.parametrize(
    ("module", "text", "cycle"),
    [
        ("checks.py", "from .cam import x\n", "cam -> checks -> cam"),
        ("checks.py", "def f():\n    from . import part\n", "cam -> checks -> part -> cam"),
        (
            "adapters/art/trainer.py",
            "def f():\n    from . import x\n",
            "adapters.art -> adapters.art.trainer -> adapters.art",
        ),
        ("plots.py", "import importlib\nimportlib.import_module('.cli', __package__)\n", "cli -> plots -> cli"),
        ("evaluation/__init__.py", "def f():\n    import made_up.recipes\n", "evaluation -> recipes -> evaluation"),
        ("checks.py", "if TYPE_CHECKING:\n    from .cam import x\n", None),
    ],
)
def test_a_cycle_is_found(tmp_path, module, text, cycle):
    found = [sentence for sentence in made_up(tmp_path, {module: text}) if "->" in sentence]
    assert found == ([] if cycle is None else [cycle])


def test_no_cycle_among_many():
    """A diamond is none; a long way round is one."""
    diamond = {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}
    assert cycles(diamond) == []
    assert cycles(diamond | {"d": {"a"}}) == ["a -> b -> d -> a"]
