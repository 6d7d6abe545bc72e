"""The model as the attack sees it: in eval mode, with gradients, and afterwards as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ModelView(nn.Module):
    """A network behind its input normalisation: `view(images)` is `module(preprocess(images))`.

    Lets a map and an attack work in the images' own units on a network that wants other ones.
    """

    def __init__(self, module: nn.Module, preprocess: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.module = module
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Any:
        """Return what the network makes of images (N, C, H, W)."""
        return self.module(images if self.preprocess is None else self.preprocess(images))


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (N, K) of a model whose output is a tensor, a tuple or has a field `logits`."""
    output = model(images)
    if isinstance(output, dict) and "logits" in output:
        output = output["logits"]
    elif isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(images):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model's output is {found}; logits of shape ({len(images)}, K) are needed")
    return output


def without_replicas(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel or DistributedDataParallel.

    An attack through the wrapper would broadcast buffers at every step.
    """
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return the network under replicas and `torch.compile`, on whose submodules hooks do fire."""
    if isinstance(model, ModelView):
        return ModelView(without_wrappers(model.module), model.preprocess)
    model = without_replicas(model)
    compiled_from = getattr(model, "_orig_mod", None)
    return model if compiled_from is None else without_wrappers(compiled_from)


def network_of(model: nn.Module) -> nn.Module:
    """Return the innermost network: the one in which target layers are named."""
    model = without_wrappers(model)
    return model.module if isinstance(model, ModelView) else model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode with gradients on, also inside `no_grad` and `inference_mode`.

    On the way out, with or without an exception, every submodule is in the mode it was in.
    Nothing else needs restoring, because the package only ever takes gradients with
    `torch.autograd.grad`, which fills no `.grad`, and eval mode updates no buffer.
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


def within_memory(run: Callable[[slice], Any], rows: int) -> list:
    """Call `run` on rows 0 to `rows` at once, or in ever smaller parts while memory runs out; return its results."""
    results, first, size = [], 0, rows
    while first < rows:
        try:
            results.append(run(slice(first, min(first + size, rows))))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not _out_of_memory(error):
                raise
            size = (size + 1) // 2
        else:
            first += size
    return results


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)  # what torch says on a CPU


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Put `.grad` of every parameter back on the way out, for toolkits that call `backward`."""
    saved = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in saved:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in saved:
            parameter.grad = gradient
