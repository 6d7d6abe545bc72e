"""The network under its wrappers, behind its normalisation, and the logits that it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn


class ModelView(nn.Module):
    """A network behind its input normalisation: `view(images)` is `module(preprocess(images))`.

    Lets a map and an attack work in the images' own units on a network that wants other ones. What else is asked of it
    is the network's: its layers, by name, for sources of maps that look for them.

    Args:
        module: the network.
        preprocess: images -> what the network takes; None: the images themselves.
    """

    def __init__(self, module: nn.Module, preprocess: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.module = module
        self.preprocess = preprocess

    def __getattr__(self, name: str) -> Any:
        """Return what has that `name` in the network."""
        if name == "module" or name.startswith("__"):  # how it is copied is its own affair
            return super().__getattr__(name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def __getitem__(self, index: Any) -> Any:
        """Return what the network has at `index`, a layer of a Sequential."""
        return self.module[index]  # type: ignore[index]

    def forward(self, images: Tensor) -> Any:
        """Return what the network makes of images (N, C, H, W)."""
        return self.module(images if self.preprocess is None else self.preprocess(images))


def logits_of(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return the logits (N, K) of a model whose output is a tensor, a tuple or has a field `logits`.

    Args:
        model: any function of images, such as a network.
        images: (N, C, H, W), which stay as they are.

    Raises:
        ValueError: the output is not one row of logits per image.
    """
    output = model(images.clone())  # a model may work in place on its input
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
    """Return the module inside DataParallel, DistributedDataParallel or what Fabric's `setup` returns, or `model`.

    An attack through the wrapper would broadcast buffers at every step.
    """
    if isinstance(model, ModelView):
        return ModelView(without_replicas(model.module), model.preprocess)
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return cast("nn.Module", model.module)
    inside = getattr(model, "_original_module", None)  # of Fabric's, beside `_forward_module` with its strategy
    return inside if isinstance(inside, nn.Module) and hasattr(model, "_forward_module") else None


def is_compiled(model: nn.Module) -> bool:
    """Return whether `model`, or what it is a view of, or any module of it, went through `torch.compile`."""
    return any(compiled_from(module) or module._compiled_call_impl is not None for module in model.modules())


def compiled_from(module: nn.Module) -> nn.Module | None:
    """Return the module that `torch.compile` made `module` of; None if it made none."""
    raw = getattr(module, "_orig_mod", None)
    return raw if isinstance(raw, nn.Module) else None


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return the network under replicas and `torch.compile` of `model`, on whose submodules hooks do fire."""
    if isinstance(model, ModelView):
        return ModelView(without_wrappers(model.module), model.preprocess)
    model = without_replicas(model)
    raw = compiled_from(model)
    return model if raw is None else without_wrappers(raw)


def network_of(model: nn.Module) -> nn.Module:
    """Return the innermost network of `model`: the one in which target layers are named."""
    model = without_wrappers(model)
    return network_of(model.module) if isinstance(model, ModelView) else model
