"""No training step but the first waits for its device, and what is wrong with one is said all the same.

Without a GPU these tests run on PyTorch's own second device, "lazy", which every wheel has: its tensors are computed by
the kernels of the CPU, but lie elsewhere, so that every number that is read, and every copy from or to the CPU, is an
operation that a dispatch mode sees. A GPU waits for the same ones.
"""

import logging
import re
from collections import Counter

import pytest
import torch
import torch._lazy.ts_backend
from conftest import SmallNet
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from part_plugin import PART, Soft, deferred
from part_plugin.checks import check_images, class_indices
from part_plugin.network.fold import foldable_pairs

SETTINGS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.05, "steps": 2, "burn_in": 0, "target_layers": "features"}
DATA_DEPENDENT = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount", "equal"}


@pytest.fixture(scope="module", autouse=True)
def _lazy_device():
    torch._lazy.ts_backend.init()


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU is waited: reads, copies, results whose shape depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        taken, given = (
            {leaf.device.type for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)}
            for value in ((args, kwargs), result)
        )
        name = func.overloadpacket.__name__
        read = "lazy" in taken and "lazy" not in given
        sent = "cpu" in taken and "lazy" in given and not (kwargs or {}).get("non_blocking")
        flags = name.startswith("index") and any(leaf.dtype == torch.bool for leaf in tree_leaves(args[1]))
        if read or sent or ("lazy" in taken and (flags or name in DATA_DEPENDENT)):
            self.found[name] += 1
        return result


class Copies(TorchFunctionMode):
    """Counts the copies to the device that are waited for: views of what arrived fail there under a dispatch mode."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "lazy" and not (kwargs or {}).get("non_blocking"):
            taken = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.found[func.__name__] += any(leaf.device.type == "cpu" for leaf in taken)
        return result


def test_the_counter_sees_whatever_waits():
    there, here = torch.rand(4, 3).to("lazy"), torch.rand(4, 3)
    for wait in (
        lambda: there.sum().item(),
        lambda: bool(there.sum() > 0),
        lambda: int(there.sum()),
        lambda: f"{there.sum():.1f}",
        lambda: there.tolist(),
        lambda: there.cpu(),
        lambda: there.to("cpu"),
        lambda: there.detach().cpu().numpy(),
        lambda: torch.allclose(there, there),
        lambda: torch.equal(there, there),
        lambda: there[there > 0.5],
        lambda: torch.nonzero(there),
        lambda: torch.unique(there),
        lambda: here.to("lazy"),
        lambda: there + here.sum(),
    ):
        with Waits() as waits:
            wait()
        assert waits.found
    with Waits() as waits:
        torch.clamp(torch.rand_like(there) + there.new_full((), 3.0), 0, 1).argmax(1)
        here.to("lazy", non_blocking=True)
    assert not waits.found
    with Copies() as copies:
        here.to("lazy", non_blocking=True)
        assert not copies.found.total()
        here.to("lazy")
    assert copies.found.total() == 1


@pytest.fixture
def there():
    """A network and a batch on the second device."""
    torch.manual_seed(0)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    return SmallNet(width=4).to("lazy"), x.to("lazy"), y.to("lazy")


def brightness(model, images, classes):
    return images.mean(1)


class Dark:
    """A budget of a user's own."""

    eps, sign = 0.2, 1

    def __call__(self, model, images, labels):
        return self.sign * self.eps * (1 - images.amax(1, keepdim=True))


WAYS = {
    "at": {},
    "trades": {"objective": "trades"},
    "mart": {"objective": "mart"},
    "mma": {"attack": "mma"},
    "mma, trades": {"objective": "trades", "attack": "mma"},
    "mma, mart": {"objective": "mart", "attack": "mma"},
    "true classes": {"target": "true"},
    "burning in": {"burn_in": 1},
    "equal radii": {"eps_low": 0.2},
    "masks kept": {"mask_every": 2},
    "weights kept": {"mask_every": 2, "rule": Soft()},
    "a rule": {"rule": lambda maps: maps / 2},
    "a source of maps": {"cam": brightness, "target_layers": None},
    "a budget": {"budget": Dark()},
    "fold": {"fast": "fold"},
}


@pytest.mark.parametrize("name", WAYS)
def test_no_step_but_the_first_waits(there, name):
    options = SETTINGS | WAYS[name]
    if name == "a budget":
        options = {key: value for key, value in options.items() if key not in ("eps", "eps_low", "target_layers")}
    part = PART(**options)
    part.set_epoch(0)
    index = [torch.arange(8)] if part.schedule.mask_every > 1 else []
    if name == "fold":  # what can be folded is found out here, since there is no autocast there
        foldable_pairs(there[0].to("cpu"), there[1].cpu())
        there[0].to("lazy")
    loss = part.loss(*there, *index)
    for _ in range(2):
        with Waits() as waits:
            part.set_epoch(0)  # as under Lightning, in every step
            loss = part.loss(*there, *index)
            loss.backward()
        assert not waits.found
    assert loss.isfinite()


@pytest.mark.parametrize(
    "labels", [lambda y: y[:, None], lambda y: y.float(), lambda y: nn.functional.one_hot(y, 10), lambda y: y.int()]
)
def test_labels_of_any_kind_do_not_wait(there, labels):
    """Those on the CPU are on their way while the device works."""
    model, x, y = there
    part = PART(**SETTINGS)
    y = labels(y.cpu())
    part.loss(model, x, y)
    with Copies() as copies:
        part.loss(model, x, y)
    assert not copies.found.total()
    y = y.to("lazy")
    with Waits() as waits:
        part.loss(model, x, y)
    assert not waits.found


def test_masks_that_are_given_do_not_wait(there):
    model, x, y = there
    part = PART(**SETTINGS)
    part.loss(*there)
    for important in ((x > 0.5), x):
        with Waits() as waits:
            part.loss(model, x, y, important=important)
        with Copies() as copies:
            part.loss(model, x, y, important=important.cpu())
        assert not waits.found
        assert not copies.found.total()


def test_what_waits_all_the_same(there):
    """Probabilities there, of which it must be known whether they are one-hot, numbers of samples there, new masks."""
    model, x, y = there
    part = PART(mask_every=2, **SETTINGS)
    part.set_epoch(0)
    part.loss(*there, torch.arange(8))
    index, soft = torch.arange(8).to("lazy"), torch.full((8, 10), 0.1).to("lazy")
    for arguments, waits_for in (
        ((model, x, y, index), {"_to_copy": 1}),
        ((model, x, soft, torch.arange(8)), {"_local_scalar_dense": 2}),
        ((model, x, y, torch.arange(8, 16)), {"_to_copy": 1}),
    ):
        with Waits() as waits:
            part.loss(*arguments)
        assert waits.found == waits_for


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_the_results_are_those_of_a_cpu(there, objective):
    found = []
    for device in ("cpu", "lazy"):
        part = PART(objective, random_start=False, **SETTINGS)  # uniform_ draws otherwise there
        model, x, y = (each.to(device) for each in there)
        for _ in range(2):
            torch.manual_seed(1)
            adv = part.perturb(model, x, y)
        outputs = part.training_pass(model.eval(), x, adv, y)
        found.append([each.detach().cpu() for each in (adv, outputs.loss, outputs.adv_logits)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def ruled(part, rule):
    part.budget.rule = rule
    return {}


FAULTS = {  # what is done to a PART and a batch, and what is said of it
    "not finite": (
        lambda part, x, y: {"x": x * torch.nan},
        "images contain NaN or infinite values; they must be finite",
    ),
    "bytes": (
        lambda part, x, y: {"x": 200 * x + 3},
        r"images span \[3.*, .*\]; allowed is \[0, 1\]; divide them by 255",
    ),
    "too many classes": (lambda part, x, y: {"y": y + 5}, "labels contain class 12; allowed is 0 to 9"),
    "negative": (lambda part, x, y: {"y": y - 5}, "labels contain class -5; allowed is 0 and above"),
    "halves": (lambda part, x, y: {"y": y + 0.5}, "labels are not whole numbers; class indices are needed"),
    "two classes": (
        lambda part, x, y: {"y": torch.ones(8, 10, dtype=torch.long, device=x.device)},
        r"labels of shape \(8, 10\) are neither one-hot nor probabilities; each row must sum to 1",
    ),
    "weights": (
        lambda part, x, y: {"important": 4 * x - 1},
        r"important has weights from -.* to .*; they must be in \[0, 1\]",
    ),
    "rule": (
        lambda part, x, y: ruled(part, lambda maps: 4 * maps - 1),
        r"rule=<<lambda>> returned weights from -1 to .*; they must be in \[0, 1\]",
    ),
}


@pytest.mark.parametrize("options", [{}, {"objective": "mart"}, {"target": "true"}, {"attack": "mma"}], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_is_said_at_once_on_a_cpu_and_later_elsewhere(there, fault, options):
    """With the step. Until then such a batch does no harm: classes that there are not, weights above 1."""
    change, message = FAULTS[fault]
    part = PART(**SETTINGS | options)
    model, x, y = (each.to("cpu") for each in there)
    with pytest.raises(ValueError, match=f"^{message}$"):
        part.perturb(model, **{"x": x, "y": y} | change(part, x, y))
    assert part.step == 0

    part = PART(**SETTINGS | options)
    model, x, y = (each.to("lazy") for each in (model, x, y))
    part.loss(model, x, y)
    wrong = {"x": x, "y": y} | change(part, x, y)
    adv = part.perturb(model, **wrong)
    part.training_pass(model, wrong["x"], adv, wrong["y"]).loss.backward()
    if fault in ("weights", "rule"):
        assert (adv - x).cpu().abs().max() <= 0.2 + 1e-6
    later = re.escape(" (in step 1, counted from 0; told only now, as no step waits for lazy:0)")
    with pytest.raises(ValueError, match=f"^{message}{later}$"):
        part.state_dict()
    part.state_dict()  # it is said once


def test_a_budget_that_goes_wrong(there):
    """Meanwhile a radius below 0 is 0."""
    model, x, y = there
    part = PART(budget=Dark(), alpha=0.05, steps=2, burn_in=0)
    part.loss(model, x, y)
    Dark.sign = -1
    try:
        assert torch.equal(part.perturb(model, x, y).cpu(), x.cpu())
    finally:
        Dark.sign = 1
    with pytest.raises(
        ValueError, match=r"^budget returned radii from -0.1.* to -.*; they must be in \[0, eps=0.2\] \(in s"
    ):
        part.state_dict()


def test_when_it_is_said(there, monkeypatch):
    """At the end of the first step, of every so many after it, and in the next epoch."""
    monkeypatch.setattr(deferred, "EVERY", 4)
    model, x, y = there
    part = PART(**SETTINGS)
    with pytest.raises(ValueError, match=r"\(in step 0, "):
        part.loss(model, x * torch.nan, y)
    part = PART(**SETTINGS)
    part.set_epoch(0)
    for images in (x, x * torch.nan, x * torch.nan, x):
        part.loss(model, images, y)
        part.set_epoch(0)
    with pytest.raises(ValueError, match=r"\(in step 1, "):
        part.loss(model, x, y)
    part.step = 5
    part.loss(model, x * torch.nan, y)
    with pytest.raises(ValueError, match=r"\(in step 5, "):
        part.set_epoch(1)


def test_warnings_come_later_as_well(there, caplog):
    """Of maps without signal and attacks without a gradient: what is looked at in the second step is said after it."""
    model, x, y = there
    part = PART(**SETTINGS)
    part.loss(model, x, y)
    nn.init.zeros_(model.head.weight)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            part.loss(model, x, y)
        assert not caplog.records
        part.set_epoch(1)
    assert [record.getMessage() for record in caplog.records] == [
        "50% of the maps had no signal (8 of 16, cam=gradcam at 'features'); those images keep the full eps everywhere",
        "50% of the samples gave the attack no gradient to follow",
    ]
    assert part.zero_gradients == part.budget.no_signal == 16
    assert part.attacked == part.budget.images == 24


def test_outside_of_training_steps_everything_is_said_at_once(there):
    _, x, y = there
    with pytest.raises(ValueError, match=r"^images contain NaN or infinite values; they must be finite$"):
        check_images(x * torch.nan)
    with pytest.raises(ValueError, match=r"^labels contain class -1; allowed is 0 and above$"):
        class_indices(y - 1, 8)
