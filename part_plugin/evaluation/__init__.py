"""Accuracy of a checkpoint in the manner of RobustBench, and whether to believe it."""

from .corruptions import CORRUPTIONS, CorruptionResult, corrupted, corruption_accuracy
from .evaluate import SUITES, evaluate
from .gradients import GradientChecks, gradient_checks
from .results import AttackResult, Evaluation, compare

__all__ = [
    "CORRUPTIONS",
    "SUITES",
    "AttackResult",
    "CorruptionResult",
    "Evaluation",
    "GradientChecks",
    "compare",
    "corrupted",
    "corruption_accuracy",
    "evaluate",
    "gradient_checks",
]
