"""How the core finds a library of maps without knowing it."""

import importlib
import sys

import pytest

from part_plugin import PixelBudget
from part_plugin.plugins import map_libraries


def test_there_is_one_library_of_maps():
    (library,) = map_libraries
    module = library()
    assert module is importlib.import_module("part_plugin.adapters.gradcam")
    assert callable(module.library_maps)
    assert callable(module.check_library_method)


def test_a_library_that_is_missing_is_only_missed_where_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    monkeypatch.delitem(sys.modules, "part_plugin.adapters.gradcam", raising=False)
    PixelBudget(cam="xgradcam")
    with pytest.raises(ImportError, match="pytorch-grad-cam.*pip install grad-cam"):
        PixelBudget(cam="EigenCAM")
