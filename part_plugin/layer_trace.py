"""What every module of a network gives for five rows, and the gradients there: the material of the search for a layer.

The rows are an image, and the image with each of its quadrants replaced by noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .layouts import quadrants_replaced
from .network.view import logits_of


class Call(NamedTuple):
    """One call of a module: what it took and gave, (5, ...)."""

    name: str
    module: nn.Module
    taken: Any
    given: Tensor
    """Still part of the graph."""
    passed_on: Tensor
    """The copy that the network goes on with, which may be changed in place."""


class Trace(NamedTuple):
    """All calls in the order in which they ended, the gradients there, and the graph's two ends."""

    calls: list[Call]
    gradients: Sequence[Tensor | None]
    logits: Tensor | None
    rows: Tensor
    differentiable: bool
    """Whether the rows have a gradient."""


def traced(model: nn.Module, network: nn.Module, image: Tensor) -> Trace:
    """Run the five rows of an `image` (1, C, H, W) through a `model` whose modules are those of `network`, and back."""
    calls: list[Call] = []

    def recorder(name: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            passed_on = output.clone()
            calls.append(Call(name, module, inputs[0] if inputs else None, output, passed_on))
            return passed_on

        return hook

    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(_noise_for_zeros(network))
        for name, module in network.named_modules():
            if module is network or not isinstance(module, torch.jit.ScriptModule):  # torch says that those take none
                stack.callback(module.register_forward_hook(recorder(name)).remove)
        rows = quadrants_replaced(image).requires_grad_()
        try:
            logits = logits_of(model, rows)
        except ValueError:  # no logits, of which the map itself will speak
            return Trace(calls, [None] * len(calls), None, rows, True)
        forward = calls.copy()  # layers whose activations are checkpointed are called again by backward passes
        if not forward or not logits.requires_grad:
            return Trace(forward, [None] * len(forward), logits, rows, logits.requires_grad)
        score, ends = logits[:, int(logits[0].argmax())].sum(), [rows, *(call.given for call in forward)]
        at_rows, *gradients = torch.autograd.grad(score, ends, retain_graph=True, allow_unused=True)
    return Trace(forward, gradients, logits, rows, at_rows is not None)


def reaches_image(trace: Trace, past: Tensor) -> bool:
    """Return whether a way leads from the logits of a `trace` back to the image that does not go through `past`.

    Of a node of the graph with several outputs, as that of `unbind`, a tensor is but one.
    """
    seen: set[Any] = set()
    ends = [] if trace.logits is None else [(trace.logits.grad_fn, trace.logits.output_nr)]
    while ends:
        node, number = ends.pop()
        if node is None or node in seen or (node is past.grad_fn and number == past.output_nr):
            continue
        if getattr(node, "variable", None) is trace.rows:
            return True
        seen.add(node)
        ends += node.next_functions
    return False


def is_closed(trace: Trace, network: nn.Module) -> bool:
    """Return whether modules of a `network` run out of sight of its `trace`: those of torch.jit or torch.export."""
    seen = any(call.name for call in trace.calls)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in network.modules())
    return scripted or (not seen and any(True for _ in network.children()))


@contextmanager
def _noise_for_zeros(network: nn.Module) -> Iterator[None]:
    """Let matrices that are all zero, as some heads are at first, hold noise meanwhile: nothing passes a zero."""
    zeros = [
        (module, name, parameter)
        for module in network.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.dim() > 1 and parameter.is_floating_point() and not parameter.any()
    ]
    try:
        for module, name, parameter in zeros:
            module._parameters[name] = nn.Parameter(0.02 * torch.randn_like(parameter), requires_grad=False)
        yield
    finally:
        for module, name, parameter in zeros:
            module._parameters[name] = parameter
