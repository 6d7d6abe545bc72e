"""Accuracy of a checkpoint in the manner of RobustBench, and whether to believe it."""

from .attack_result import AttackResult
from .combine import compare, merged
from .corrupted_images import CORRUPTIONS, corrupted
from .corruption_result import CorruptionResult
from .corruptions import corruption_accuracy
from .evaluate import evaluate
from .gradient_result import GradientChecks
from .gradients import gradient_checks
from .results import Evaluation
from .suites import SUITES

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
    "merged",
]
