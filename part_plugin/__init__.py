"""Pixel-reweighted adversarial training (PART, ICML 2024) for torchattacks, ART and RobustBench.

Names are imported when they are first used, so that a toolkit that is missing or broken only
matters to the names that need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_CORE = {
    "class_activation_map": "cam",
    "PixelBudget": "budget",
    "FixedBudget": "budget",
    "Objective": "objectives",
    "AT": "objectives",
    "TRADES": "objectives",
    "MART": "objectives",
    "PART": "part",
}
_TORCHATTACKS = ("adapters.torchattacks", "torchattacks", "torchattacks")
_ART = ("adapters.art", "art", "adversarial-robustness-toolbox tqdm")
_ART_TRAINER = ("adapters.art_trainer", *_ART[1:])
_ROBUSTBENCH = ("adapters.robustbench", "robustbench", "robustbench 'setuptools<81'")
_EVALUATION = ("evaluation", "pyautoattack, pandas and scipy", "pyautoattack pandas scipy tqdm")
_ADAPTERS = {  # public name -> module, toolkit, what pip installs
    "PixelPGD": _TORCHATTACKS,
    "PixelTPGD": _TORCHATTACKS,
    "PixelMMA": _TORCHATTACKS,
    "PixelAttack": _TORCHATTACKS,
    "MMA": _TORCHATTACKS,
    "PixelProjectedGradientDescent": _ART,
    "PixelEvasionAttack": _ART,
    "PARTTrainer": _ART_TRAINER,
    "PARTTrainerTRADES": _ART_TRAINER,
    "PARTTrainerMART": _ART_TRAINER,
    "save_checkpoint": _ROBUSTBENCH,
    "load_checkpoint": _ROBUSTBENCH,
    "evaluate": _EVALUATION,
}
__all__ = list(_CORE)  # what `import *` brings must not need a toolkit


def __getattr__(name: str) -> Any:
    if name in _CORE:
        value = getattr(importlib.import_module(f"{__name__}.{_CORE[name]}"), name)
    elif name in _ADAPTERS:
        value = getattr(_import_adapter(name, *_ADAPTERS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _import_adapter(name: str, module: str, toolkit: str, packages: str) -> Any:
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except Exception as error:  # a broken toolkit can raise anything while it is imported
        if "pip install" in str(error):  # it brings its own remedy
            raise
        raise ImportError(
            f"part_plugin.{name} needs {toolkit}, which cannot be imported ({error}): pip install {packages}"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_CORE, *_ADAPTERS})


if TYPE_CHECKING:
    from .adapters.art import PixelEvasionAttack as PixelEvasionAttack
    from .adapters.art import PixelProjectedGradientDescent as PixelProjectedGradientDescent
    from .adapters.art_trainer import PARTTrainer as PARTTrainer
    from .adapters.art_trainer import PARTTrainerMART as PARTTrainerMART
    from .adapters.art_trainer import PARTTrainerTRADES as PARTTrainerTRADES
    from .adapters.robustbench import load_checkpoint as load_checkpoint
    from .adapters.robustbench import save_checkpoint as save_checkpoint
    from .adapters.torchattacks import MMA as MMA
    from .adapters.torchattacks import PixelAttack as PixelAttack
    from .adapters.torchattacks import PixelMMA as PixelMMA
    from .adapters.torchattacks import PixelPGD as PixelPGD
    from .adapters.torchattacks import PixelTPGD as PixelTPGD
    from .budget import FixedBudget as FixedBudget
    from .budget import PixelBudget as PixelBudget
    from .cam import class_activation_map as class_activation_map
    from .evaluation import evaluate as evaluate
    from .objectives import AT as AT
    from .objectives import MART as MART
    from .objectives import TRADES as TRADES
    from .objectives import Objective as Objective
    from .part import PART as PART
