"""Which layer of a network to map: the last one where every position still has a say and nothing goes around it.

One forward and one backward pass of five rows, once for a network and an image size: an image, and the image with each
of its quadrants replaced by noise, which tells the layout. No name of an architecture is known here.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .layer_trace import Call, Trace, is_closed, reaches_image, traced
from .layouts import Layout, in_proportion, placement, readings
from .mismatch import CLOSED, NO_GRADIENT

logger = logging.getLogger(__name__)

PLACED = 0.9
"""Least share of positions in their place; trained and untrained token networks have 0.94 and more, chance is 0.5."""
LEAD = 0.1
"""By how much a reading must be better placed than any other."""


def find_layer(model: nn.Module, network: nn.Module, image: Tensor) -> tuple[str, Layout]:
    """Return the name of the layer to map, and how its output lies.

    Args:
        model: the network, or a view of it, in eval mode.
        network: the one whose modules are named.
        image: (1, C, H, W).

    Raises:
        ValueError: there is none, or how it lies cannot be told.
    """
    trace = traced(model, network, image)
    size = image.shape[2:]
    calls = Counter(call.module for call in trace.calls)
    for number in reversed(range(len(trace.calls))):
        call, gradient = trace.calls[number], trace.gradients[number]
        if not call.name or calls[call.module] > 1 or gradient is None or _is_no_map(call, trace.rows):
            continue
        options = [layout for layout in _readings(call, trace, size) if _has_signal(layout, gradient)]
        if options and _cuts(call, trace):
            return _decided(call, options, number, trace)
    return _last_map(trace, network)


def layout_of(model: nn.Module, network: nn.Module, image: Tensor, name: str) -> Layout | None:
    """Return how the output of the module `name` lies; None if it has no reading at all.

    The arguments `model`, `network` and `image` are those of `find_layer`.

    Raises:
        ValueError: it cannot be told, or of its tokens the logits hear the class token alone.
    """
    trace = traced(model, network, image)
    number = next((n for n in reversed(range(len(trace.calls))) if trace.calls[n].name == name), None)
    if number is None:
        return None
    call, gradient = trace.calls[number], trace.gradients[number]
    options = _readings(call, trace, image.shape[2:])
    if not options:
        return None
    layout = _placed(call, options, trace)
    if "T" in layout.order and gradient is not None and not layout(gradient).any():
        raise ValueError(
            f"target layer {name!r} can carry no signal: behind it nothing mixes tokens, and the class token alone "
            "decides; name an earlier one, or none, and the last that decides is found"
        )
    return layout


def _is_no_map(call: Call, rows: Tensor) -> bool:
    """Whether a call gave the image itself, tokens through a matrix, or its input enlarged."""
    given = call.given
    linear = isinstance(call.module, nn.Linear)
    return given.dim() not in (3, 4) or given.shape == rows.shape or linear or _enlarges(call)


def _enlarges(call: Call) -> bool:
    """Whether a module repeats its input, as adaptive pooling does on images smaller than its grid."""
    taken, given = call.taken, call.given
    both_maps = isinstance(taken, Tensor) and taken.dim() == given.dim() == 4
    return both_maps and taken[0, 0].numel() < given[0, 0].numel()


def _readings(call: Call, trace: Trace, size: torch.Size) -> list[Layout]:
    shape = call.given.shape
    found = [layout for layout in readings(shape, size, _grids(trace, size)) if layout.grid != (1, 1)]
    if len(shape) == 3 and shape[1] == len(trace.rows) != shape[0]:  # tokens first; as many as rows: batch first
        flipped = readings(torch.Size([shape[1], shape[0], shape[2]]), size, _grids(trace, size))
        found += [Layout("TNC", layout.grid, layout.prefix) for layout in flipped if layout.order == "NTC"]
    return [layout for layout in found if shape[layout.order.index("N")] == len(trace.rows)]


def _grids(trace: Trace, size: torch.Size) -> list[tuple[int, int]]:
    shapes = [call.given.shape for call in trace.calls if call.given.dim() == 4]
    grids = [grid for shape in shapes for grid in ((shape[2], shape[3]), (shape[1], shape[2]))]
    return [grid for grid in grids if in_proportion(grid, size)]


def _has_signal(layout: Layout, gradient: Tensor) -> bool:
    """Whether, of tokens or channels last, in some row at least half of the positions, and of the channels, have a say.

    Behind the last attention only a class token has one, in all of its channels, which might be read as positions.
    """
    says = layout(gradient) != 0
    if layout.order == "NCHW":
        return bool(says.any())
    shares = says.any(1).flatten(1).double().mean(1), says.flatten(2).any(2).double().mean(1)
    return bool(torch.minimum(*shares).max() >= 0.5)


def _cuts(call: Call, trace: Trace) -> bool:
    """Whether every way from the logits back to the image leads through a call."""
    return call.given.grad_fn is not None and not reaches_image(trace, call.given)


def _decided(call: Call, options: list[Layout], number: int, trace: Trace) -> tuple[str, Layout]:
    """Return the name and layout of what to map, if a call decides.

    Raises:
        ValueError: it lies too early, or its layout cannot be told.
    """
    layout = _placed(call, options, trace)
    among_tokens = layout.order != "NCHW" or any(later.given.dim() == 3 for later in trace.calls[number + 1 :])
    deciding = [n for n, gradient in enumerate(trace.gradients) if gradient is not None]
    place = deciding.index(number) + 1
    if 2 * place <= len(deciding):
        early = (
            f"target_layers=None: the last layer in which every position has a say, {call.name!r}, is module "
            f"{place} of {len(deciding)}, "
        )
        if among_tokens:
            raise ValueError(f"{early}too early to decide; pass target_layers (and reshape_transform for tokens)")
        logger.warning("%sso early that target_layers of your own may be better", early)
    norm = _norm_behind(call, layout, trace) if "T" in layout.order else None
    return (call if norm is None else norm).name, layout


def _placed(call: Call, options: list[Layout], trace: Trace) -> Layout:
    """Return the reading in which the positions lie where they answer to.

    Raises:
        ValueError: there is none, or another is about as good.
    """
    if len(options) == 1 and call.given.dim() == 4:
        return options[0]
    scores = sorted(((_placement(call, layout, trace), -n) for n, layout in enumerate(options)), reverse=True)
    best, second = [*scores, (0.0, 0), (0.0, 0)][:2]
    if best[0] - second[0] >= LEAD and (best[0] >= PLACED or call.given.dim() == 4):
        return options[-best[1]]
    if call.given.dim() == 4 and not any(_norm_of_last_dimension(each) for each in trace.calls):
        return options[0]  # as wide as high as deep, in a network in which nothing is channels-last
    raise ValueError(
        f"target layer {call.name!r} gives {tuple(call.given.shape)} for {len(call.given)} images, whose layout cannot "
        f"be told: the best reading puts {best[0]:.0%} of the positions in their place; pass reshape_transform, and "
        "target_layers"
    )


def _placement(call: Call, layout: Layout, trace: Trace) -> float:
    """Return how well the positions of a reading lie, in a call or in an earlier one that had them in the same order.

    Tokens of a trained network know much of each other, but behind the embedding each is still of its own place.
    """
    own = placement(layout(call.given.detach()))
    if own >= PLACED:
        return own
    for earlier in itertools.takewhile(lambda other: other is not call, trace.calls):
        if earlier.given.shape == call.given.shape:
            placed = placement(layout(earlier.given.detach()))
            if placed >= PLACED:
                return placed if _same_order(earlier, call, layout) else own
    return own


def _same_order(earlier: Call, call: Call, layout: Layout) -> bool:
    """Whether positions of a call depend most, for what all do, on the same positions of an earlier one."""
    positions = layout(call.given)[0].flatten(1)  # (C, h * w) of the image itself
    asked = torch.linspace(0, positions.shape[1] - 1, 16, device=positions.device).long().unique()
    direction = torch.randn_like(positions[:, 0])
    gradients = []
    for position in asked:
        score = positions[:, position] @ direction
        (gradient,) = torch.autograd.grad(score, earlier.given, retain_graph=True, allow_unused=True)
        if gradient is None:
            return False
        gradients.append(layout(gradient)[0].flatten(1).norm(dim=0))
    depends = torch.stack(gradients)
    most = (depends / depends.mean(0)).argmax(1)
    return bool((most == asked).double().mean() >= 0.75)


def _norm_behind(call: Call, layout: Layout, trace: Trace) -> Call | None:
    """Return the norm that reads exactly what a call gave, as the last block's first: what the block decides on."""
    for other, gradient in _pairs(trace):
        reads = _are_one(other.taken, call.passed_on) and other.given.shape == call.given.shape
        norm = reads and "norm" in type(other.module).__name__.lower()
        if norm and gradient is not None and _has_signal(layout, gradient):
            return other
    return None


def _are_one(taken: Any, passed_on: Tensor) -> bool:
    """Whether what a module took is what another passed on, though hooks, as those of FSDP, may have seen it since."""
    if not isinstance(taken, Tensor) or taken.shape != passed_on.shape or taken.stride() != passed_on.stride():
        return False
    return taken.data_ptr() == passed_on.data_ptr()


def _norm_of_last_dimension(call: Call) -> bool:
    return call.given.dim() == 4 and isinstance(call.module, nn.LayerNorm) and len(call.module.normalized_shape) == 1


def _last_map(trace: Trace, network: nn.Module) -> tuple[str, Layout]:
    """Return the last module with an (N, C, h, w) output, where no layer has it all.

    Raises:
        ValueError: there is none.
    """
    tokens = any(call.given.dim() == 3 for call in trace.calls)
    for call in reversed(trace.calls):
        shape = call.given.shape
        if len(shape) == 3:
            break  # what came before tokens is no longer where it is decided
        if tokens and len(shape) == 4 and placement(call.given.detach()) < PLACED:
            break  # heads and tokens, it may be, which lie as maps do
        if call.name and len(shape) == 4 and shape[2:].numel() > 1 and not _is_no_map(call, trace.rows):
            layouts = readings(shape, trace.rows.shape[2:])
            if not layouts or layouts[0].order == "NCHW":
                logger.warning(
                    "target_layers=None: no layer of %s has all that decides; %r is mapped, a part of it: pass "
                    "target_layers, as one for each member of an ensemble, whose maps are averaged",
                    type(network).__name__,
                    call.name,
                )
                return call.name, Layout("NCHW", (shape[2], shape[3]))
    if not trace.differentiable:
        raise ValueError(NO_GRADIENT)
    if is_closed(trace, network):
        raise ValueError(CLOSED)
    if any(call.name and gradient is not None and not _is_no_map(call, trace.rows) for call, gradient in _pairs(trace)):
        raise ValueError(
            f"target_layers=None: no layer of {type(network).__name__} has all that decides, as in an ensemble; pass "
            "target_layers (and reshape_transform for tokens)"
        )
    raise ValueError(
        f"target_layers=None: {type(network).__name__} has no module with an (N, C, h, w) output or tokens to map; "
        "pass target_layers (and reshape_transform for tokens)"
    )


def _pairs(trace: Trace) -> Iterator[tuple[Call, Tensor | None]]:
    return zip(trace.calls, trace.gradients, strict=True)
