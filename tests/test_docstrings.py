"""Every public function names all of its arguments; ruff (D417, DOC501) holds the sections and the errors raised."""

import importlib
import inspect
import pkgutil
import re

import pytest

import part_plugin

MODULES = [
    module.name
    for module in pkgutil.walk_packages(part_plugin.__path__, "part_plugin.")
    # whose arguments carry the help that typer prints
    if module.name not in ("part_plugin.commands", "part_plugin.cli_train")
]


def public_callables(module):
    """Functions, classes and methods that are defined here under a public name, with the text that documents them."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) and not getattr(value, "_is_protocol", False):
            yield f"{name}()", value.__init__, f"{value.__doc__} {value.__init__.__doc__}"
            for method_name, method in vars(value).items():
                method = getattr(method, "__func__", method)
                overrides = any(hasattr(base, method_name) for base in value.__mro__[1:])  # which documents it
                if inspect.isfunction(method) and not method_name.startswith("_") and not overrides:
                    yield f"{name}.{method_name}", method, f"{method.__doc__}"
        elif inspect.isfunction(value):
            yield name, value, f"{value.__doc__}"


@pytest.mark.parametrize("module", MODULES)
def test_arguments_are_named(module):
    missing = []
    for name, function, text in public_callables(importlib.import_module(module)):
        if not inspect.isfunction(function):
            continue
        arguments = [argument for argument in inspect.signature(function).parameters if argument not in ("self", "cls")]
        words = set(re.findall(r"\w+", text))
        missing += [f"{name}: {argument}" for argument in arguments if argument not in words]
    assert not missing
