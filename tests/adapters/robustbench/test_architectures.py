"""The list of architectures: everything on it is built from plain data, and nothing that is not on it is called."""

import numpy as np
import pytest
import torch
from torch import nn

from part_plugin.adapters.robustbench import ARCHITECTURES, build_model
from part_plugin.adapters.robustbench.architectures import DEPTHS, NAMES, NUMBERS, SIZES
from part_plugin.network.view import logits_of
from part_plugin.recipes.skeleton import Spec, check_fits

DEEP = {"depth": 10, "width": 1, "num_classes": 7}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8], "num_classes": 7, "drop_path_rate": 0.1}
TINY = {  # architecture -> arguments, and the size of its images
    "resnet.ResNet18": ({"width": 2, "num_classes": 7}, 32),
    "wide_resnet.WideResNet": ({"depth": 10, "widen_factor": 1, "num_classes": 7, "sub_block1": True}, 32),
    "robust_wide_resnet.RobustWideResNet": (
        {"channel_configs": [2, 4, 6, 8], "depth_configs": [1, 1, 1], "num_classes": 7, "drop_rate_config": [0.1] * 3},
        32,
    ),
    "robust_resnet.PreActResNet": (
        {"channel_configs": [2, 4, 4, 8], "depth_configs": [1, 1, 1], "activations": ["SiLU"] * 3, "num_classes": 7},
        32,
    ),
    "boosting_wide_resnet.BoostingWideResNet": ({"depth": 10, "widen_factor": 1}, 32),
    "dm_wide_resnet.DMWideResNet": (DEEP | {"mean": [0.5] * 3, "std": [0.25] * 3}, 32),
    "dm_wide_resnet.DMPreActResNet": ({"depth": 18, "width": 0, "num_classes": 7}, 32),
    "dm_rn.WideResNet": (DEEP, 32),
    "Meansparse_wrn_70_16.DMWideResNet": (DEEP, 32),
    "Meansparse_wrn_94_16.MeanSparse_DMWideResNet": (DEEP, 32),
    "CARD_resnet.LRR_ResNet": ({"layers": [1, 1, 1, 1], "width": 2, "num_classes": 7}, 32),
    "CARD_resnet.WidePreActResNet": ({"num_blocks": [1, 1, 1, 1], "widen_factor": 1, "num_classes": 7}, 32),
    "bit_rn_v2.ResNetV2": ({"block_units": [1, 1, 1, 1], "width_factor": 1, "head_size": 7}, 32),
    "convnext_v2.ConvNeXtV2": (CONVNEXT, 32),
    "convnext_v2.convnextv2_atto": ({"num_classes": 7}, 32),
    "resnet.PreActResNet18": ({}, 32),
}
NAMED = {
    "robust_resnet.get_model": [{"modelname": "WRN-A4"}],
    "Meansparse_ra_wrn_70_16.get_model": [{"model_name": "ra_wrn70_16"}],
    "robustarch_wide_resnet.get_model": [{"model_name": "ra_wrn70_16"}, {"model_name": "ra_wrn101_2"}],
    "bit_rn_v2.ResNetV2": [{"block_units": [3, 4, 6, 3], "width_factor": 1}],
    "convstem_models.get_convstem_models": [
        {"modelname": f"{name}_cvst"}
        for name in ("convnext_t", "convnext_s", "convnext_b", "convnext_l", "vit_s", "vit_b")
    ],
}
USUAL = [(name, arguments) for name in ARCHITECTURES for arguments in NAMED.get(name, [{}])]


def specs(network):
    return {name: Spec(tuple(one.shape), one.dtype) for name, one in network.state_dict().items()}


@pytest.mark.parametrize("name", TINY)
def test_a_network_fits_its_own_weights(name):
    """Built with values, its weights are those that are found without; one more, one less, another shape is told."""
    arguments, size = TINY[name]
    network = build_model(name, arguments).eval()
    weights, classes = specs(network), logits_of(network, torch.rand(2, 3, size, size)).shape[1]
    assert classes == arguments.get("num_classes", arguments.get("head_size", 10))
    check_fits(name, arguments, classes, weights)
    with pytest.raises(ValueError, match=f"num_classes={classes + 1} does not fit the weights, which have {classes}"):
        check_fits(name, arguments, classes + 1, weights)
    first = next(iter(weights))
    with pytest.raises(ValueError, match="'more'"):
        check_fits(name, arguments, classes, weights | {"more": Spec((1,), torch.float32)})
    with pytest.raises(ValueError, match=f"'{first}' is missing"):
        check_fits(name, arguments, classes, {key: one for key, one in weights.items() if key != first})
    with pytest.raises(ValueError, match=f"'{first}' is float64"):
        check_fits(name, arguments, classes, weights | {first: Spec(weights[first].shape, torch.float64)})


@pytest.mark.parametrize(("name", "arguments"), USUAL)
def test_every_architecture_is_weighed_without_memory(name, arguments):
    """In its usual size, which may be a billion values; what it has is found out, and fits itself."""
    from part_plugin.recipes.skeleton import _WithoutMemory

    with _WithoutMemory():
        network = build_model(name, arguments)
    real = [one for one in network.parameters() if not one.is_meta]
    assert sum(one.numel() for one in real) < 1000
    *_, last = network.parameters()
    check_fits(name, arguments, last.shape[0], specs(network))
    small = {"x": Spec((10,), torch.float32)}
    with pytest.raises(ValueError, match=f"^the weights do not fit architecture '{name}': with arguments="):
        check_fits(name, arguments, 10, small)


def test_the_list_names_networks():
    assert len(ARCHITECTURES) == 48
    assert {name for name, _ in USUAL} == set(ARCHITECTURES)
    for takes in ARCHITECTURES.values():
        assert not {"pretrained", "weights", "checkpoint_path", "url", "file", "cache_dir"} & set(takes)


def test_lists_may_be_tuples():
    arguments = {"channel_configs": (2, 4, 4, 8), "depth_configs": (1, 1, 1), "stride_config": (1, 1, 1)}
    assert isinstance(build_model("robust_wide_resnet.RobustWideResNet", arguments), nn.Module)


def test_nothing_is_called_before_everything_is_checked(monkeypatch):
    called = []
    monkeypatch.setattr("part_plugin.adapters.robustbench.architectures.ResNet18", lambda **given: called.append(given))
    for arguments in (
        {"width": 0},
        {"width": 65537},
        {"width": np.int64(4)},
        {"pretrained": True},
        {"width": 4, "x": 1},
    ):
        with pytest.raises(ValueError, match="do not fit architecture 'resnet.ResNet18'"):
            build_model("resnet.ResNet18", arguments)
    with pytest.raises(ValueError, match=r"arguments=\[\] are a list; a dict is needed"):
        build_model("resnet.ResNet18", [])
    assert not called
    build_model("resnet.ResNet18", {"width": 65536})
    assert called == [{"width": 65536}]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (SIZES, [[1], (65536,), [1] * 64], [[0], [65537], [1] * 65, [True], [1.0], ["1"], 1, "1", None, {1: 1}, {1}]),
        (DEPTHS, [[1024]], [[1025], [0]]),
        (NUMBERS, [[0.5, 1], (-1,)], [[float("inf")], [float("nan")], [1e31], [10**400], [True], [None], 0.5]),
        (NAMES, [["x" * 64], []], [["x" * 65], [b"x"], "x"]),
    ],
)
def test_lists_of_arguments(kind, good, bad):
    from part_plugin.adapters.robustbench.architectures import _is

    assert all(_is(kind, value) for value in good)
    assert not any(_is(kind, value) for value in bad)
