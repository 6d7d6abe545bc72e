"""The caller's network while it is attacked: in eval mode, frozen, and afterwards as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` in eval mode with gradients on, also inside `no_grad` and `inference_mode`.

    On the way out, with or without an exception, every submodule is in the mode it was in.
    Nothing else needs restoring, because the package only ever takes gradients with
    `torch.autograd.grad`, which fills no `.grad`, and eval mode updates no buffer.

    Raises:
        RuntimeError: weights that were created under `inference_mode`.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise RuntimeError(
            "the model's weights were created under inference_mode, so nothing can be differentiated: "
            "create or load the model outside it (Lightning: Trainer(inference_mode=False))"
        )
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take from every pass through `model` what nobody reads or needs, exactly, and put it back on the way out.

    Parameters ask for no gradient, as the attack wants that of the image alone. On a CPU the weights
    of convolutions lie channels-last meanwhile, for which its kernels are faster: the same
    arithmetic, summed in another order.
    """
    saved = [(parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, data, _ in saved:
            parameter.requires_grad_(False)
            if data.dim() == 4 and data.device.type == "cpu":
                parameter.data = data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for parameter, data, requires_grad in saved:
            parameter.data = data
            parameter.requires_grad_(requires_grad)


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Put `.grad` of every parameter of `model` back on the way out, for toolkits that call `backward`."""
    saved = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in saved:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in saved:
            parameter.grad = gradient
