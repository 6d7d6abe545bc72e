"""RobustBench's ResNet-18 in any width, so that benchmarks fit machines of any size."""

from torch import nn

from part_plugin.adapters.robustbench import architectures  # makes RobustBench importable

BasicBlock, ResNet = architectures.resnet.BasicBlock, architectures.resnet.ResNet


class ResNet18(ResNet):
    """RobustBench's ResNet-18 whose first block has `width` channels instead of 64."""

    def __init__(self, width: int = 64, num_classes: int = 10):
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes)
        self.in_planes = width
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for number in range(4):
            setattr(self, f"layer{number + 1}", self._make_layer(BasicBlock, width * 2**number, 2, 1 + (number > 0)))
        self.linear = nn.Linear(8 * width, num_classes)
