"""Accuracy of a checkpoint in the manner of RobustBench: natural, PGD and AutoAttack at full eps."""

from .evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
