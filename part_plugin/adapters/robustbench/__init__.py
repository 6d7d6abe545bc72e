"""RobustBench made importable, its evaluation and its architectures; importing this makes `import robustbench` work."""

from .architectures import ARCHITECTURES, build_model, check_architecture
from .resnet18 import ResNet18
from .toolkit import benchmark, check_own_files, normalize_model, robustbench

__all__ = [
    "ARCHITECTURES",
    "ResNet18",
    "benchmark",
    "build_model",
    "check_architecture",
    "check_own_files",
    "normalize_model",
    "robustbench",
]
