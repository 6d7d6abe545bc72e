"""Pixel-reweighted adversarial training (PART, ICML 2024) for torchattacks, ART and RobustBench.

Names are imported when they are first used, so that a toolkit that is missing or broken only
matters to the names that need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .plugins import map_libraries

__version__ = "0.1.0"

_CORE = {
    "class_activation_map": "cam",
    "Budget": "budget",
    "FixedBudget": "budget",
    "PixelBudget": "pixel_budget",
    "Threshold": "rules",
    "TopShare": "rules",
    "Soft": "rules",
    "Objective": "objectives",
    "AT": "objectives",
    "TRADES": "objectives",
    "MART": "objectives",
    "PART": "part",
}
_TORCHATTACKS = ("adapters.torchattacks", "torchattacks", "torchattacks")
_ART = ("adapters.art", "art", "adversarial-robustness-toolbox tqdm")
_LIGHTNING = ("adapters.lightning", "lightning", "lightning")
_CHECKPOINTS = ("recipes.checkpoints", "robustbench", "robustbench 'setuptools<82'")
_NETWORKS = ("recipes.networks", *_CHECKPOINTS[1:])
_GRADCAM = ("adapters.gradcam", "pytorch-grad-cam", "grad-cam")
_EVALUATION = ("evaluation", "pyautoattack, pandas and scipy", "pyautoattack pandas scipy tqdm")
_ADAPTERS = {  # public name -> module, toolkit, what pip installs
    "PixelPGD": _TORCHATTACKS,
    "PixelTPGD": _TORCHATTACKS,
    "PixelMMA": _TORCHATTACKS,
    "PixelAttack": _TORCHATTACKS,
    "MMA": _TORCHATTACKS,
    "PixelProjectedGradientDescent": _ART,
    "PixelEvasionAttack": _ART,
    "PARTTrainer": _ART,
    "PARTTrainerTRADES": _ART,
    "PARTTrainerMART": _ART,
    "PARTModule": _LIGHTNING,
    "PARTCallback": _LIGHTNING,
    "save_checkpoint": _CHECKPOINTS,
    "load_checkpoint": _CHECKPOINTS,
    "load_network": _NETWORKS,
    "evaluate": _EVALUATION,
}
__all__ = list(_CORE)  # what `import *` brings must not need a toolkit


def __getattr__(name: str) -> Any:
    if name in _CORE:
        value = getattr(importlib.import_module(f"{__name__}.{_CORE[name]}"), name)
    elif name in _ADAPTERS:
        value = getattr(_import_adapter(f"part_plugin.{name}", *_ADAPTERS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _import_adapter(what: str, module: str, toolkit: str, packages: str) -> Any:
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except Exception as error:  # a broken toolkit can raise anything while it is imported
        if "pip install" in str(error):  # it brings its own remedy
            raise
        raise ImportError(
            f"{what} needs {toolkit}, which cannot be imported ({error}): pip install {packages}"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_CORE, *_ADAPTERS})


def _library_of_maps() -> Any:
    return _import_adapter("a cam other than 'gradcam', 'xgradcam' and 'layercam'", *_GRADCAM)


map_libraries.append(_library_of_maps)

if TYPE_CHECKING:
    from .adapters.art import PARTTrainer as PARTTrainer
    from .adapters.art import PARTTrainerMART as PARTTrainerMART
    from .adapters.art import PARTTrainerTRADES as PARTTrainerTRADES
    from .adapters.art import PixelEvasionAttack as PixelEvasionAttack
    from .adapters.art import PixelProjectedGradientDescent as PixelProjectedGradientDescent
    from .adapters.lightning import PARTCallback as PARTCallback
    from .adapters.lightning import PARTModule as PARTModule
    from .adapters.torchattacks import MMA as MMA
    from .adapters.torchattacks import PixelAttack as PixelAttack
    from .adapters.torchattacks import PixelMMA as PixelMMA
    from .adapters.torchattacks import PixelPGD as PixelPGD
    from .adapters.torchattacks import PixelTPGD as PixelTPGD
    from .budget import Budget as Budget
    from .budget import FixedBudget as FixedBudget
    from .cam import class_activation_map as class_activation_map
    from .evaluation import evaluate as evaluate
    from .objectives import AT as AT
    from .objectives import MART as MART
    from .objectives import TRADES as TRADES
    from .objectives import Objective as Objective
    from .part import PART as PART
    from .pixel_budget import PixelBudget as PixelBudget
    from .recipes.checkpoints import load_checkpoint as load_checkpoint
    from .recipes.checkpoints import save_checkpoint as save_checkpoint
    from .recipes.networks import load_network as load_network
    from .rules import Soft as Soft
    from .rules import Threshold as Threshold
    from .rules import TopShare as TopShare
