"""No public call leaves a trace, wherever inside it an exception is raised: at the k-th pass, for every k.

Of a network that has a replica, and of one that has none because its forward pass is a closure over itself.
"""

import contextlib
import io
import warnings
from itertools import count

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from conftest import assert_untouched, snapshot
from torch import nn

import part_plugin
from part_plugin import (
    MMA,
    PART,
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelAttack,
    PixelEvasionAttack,
    PixelMMA,
    PixelPGD,
    PixelProjectedGradientDescent,
    PixelTPGD,
    class_activation_map,
    evaluate,
)
from part_plugin.evaluation import corruption_accuracy, gradient_checks
from part_plugin.network.isolation import eval_mode

X, Y = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3)
OPTIONS = {"eps": 0.1, "alpha": 0.05, "steps": 2, "eps_low": 0.05}
QUIET = {"verbose": False, "batch_size": 3}


class Struck(Exception):
    """Raised in the middle of a pass."""


class Fuse:
    """Counts passes, forward and backward, and raises at the one that it is `set` to."""

    passes, at = 0, -1

    @classmethod
    def set(cls, at):
        cls.passes, cls.at = 0, at

    @classmethod
    def tick(cls):
        cls.passes += 1
        if cls.passes == cls.at:
            raise Struck


class Ticking(torch.autograd.Function):
    """Does nothing, in both directions, but tick."""

    @staticmethod
    def forward(ctx, x):
        Fuse.tick()
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Fuse.tick()
        return gradient


class Net(nn.Module):
    """A network with a fuse in the middle; with `closed` its forward pass is a closure over itself."""

    def __init__(self, closed):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last, self.dropout, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.2), nn.Linear(4, 10)
        if closed:
            self.forward = lambda x: Net.forward(self, x)

    def forward(self, x):
        return self.head(self.dropout(self.last(Ticking.apply(self.features(x))).mean((2, 3))))


@pytest.fixture(params=["replica", "turns"])
def net(request):
    """In the middle of a training loop: training, one batch norm frozen, gradients accumulated."""
    torch.manual_seed(0)
    Fuse.set(-1)
    made = Net(request.param == "turns")
    nn.functional.cross_entropy(made(X), Y).backward()
    made.features[1].eval()
    made.features[0].weight.requires_grad_(False)
    return made


def classifier(net, trained=False):
    optimizer = torch.optim.SGD(net.parameters(), 0.01) if trained else None
    return PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (3, 8, 8), 10, optimizer, clip_values=(0, 1), device_type="cpu"
    )


def art(make):
    """An attack of ART on the network, run on arrays; some of its constructors look at the network, in eval mode."""

    def call(net):
        at, Fuse.at = Fuse.at, -1
        with eval_mode(net):
            attack = make(classifier(net))
        Fuse.set(at)
        attack.generate(X.numpy(), np.eye(10)[Y])

    return call


def pixel_art(make):
    return art(lambda estimator: PixelEvasionAttack(make(estimator), eps_low=0.05))


def fitted(trainer):
    def call(net):
        estimator = classifier(net, True)
        attack = PixelProjectedGradientDescent(estimator, eps=0.1, eps_step=0.05, max_iter=2, eps_low=0.05)
        trainer(estimator, attack, burn_in=0).fit(X.numpy(), Y.numpy(), nb_epochs=1, batch_size=2)

    return call


def own_maps(model, images, classes):
    return model.features(images)


def own_budget(net):
    """A budget of the user's that holds the network itself and calls it."""

    class Held(part_plugin.Budget):
        eps, eps_low, has_weights = 0.1, 0.05, False

        def __call__(self, model, images, labels=None):
            return torch.full_like(images[:, :1], 0.1) + 0 * net(images).sum()

    return Held()


def predicted(net):
    """The classes that the network predicts, so that AutoAttack has something to attack."""
    at, passes, Fuse.at = Fuse.at, Fuse.passes, -1
    with eval_mode(net), torch.no_grad():
        classes = net(X).argmax(1)
    Fuse.at, Fuse.passes = at, passes
    return classes


def targeted(attack):
    attack.set_mode_targeted_random(quiet=True)
    return attack(X, Y)


def remembered(part, net):
    part.set_epoch(0)
    part.remember(net, X, Y, torch.arange(3))


ATTACKS = {
    "FGSM": lambda net: torchattacks.FGSM(net, 0.1),
    "BIM": lambda net: torchattacks.BIM(net, 0.1, 0.05, 2),
    "MIFGSM": lambda net: torchattacks.MIFGSM(net, 0.1, 0.05, 2),
    "APGD": lambda net: torchattacks.APGD(net, eps=0.1, steps=3),
    "FAB": lambda net: torchattacks.FAB(net, eps=0.1, steps=2, n_classes=3),
    "Square": lambda net: torchattacks.Square(net, eps=0.1, n_queries=3),
    "UPGD": lambda net: torchattacks.UPGD(net, 0.1, 0.05, 2),
}

CALLS = {
    "perturb": lambda net: PART(burn_in=0, **OPTIONS).perturb(net, X, Y),
    "perturb, folded": lambda net: PART("trades", burn_in=0, fast="fold", **OPTIONS).perturb(net, X, Y),
    "perturb, mma": lambda net: PART("mart", burn_in=0, attack="mma", **OPTIONS).perturb(net, X, Y),
    "perturb, bfloat16": lambda net: PART(burn_in=0, fast="bfloat16", **OPTIONS).perturb(net, X, Y),
    "perturb, own budget": lambda net: PART(burn_in=0, budget=own_budget(net), alpha=0.05, steps=1).perturb(net, X, Y),
    "remember": lambda net: remembered(PART(mask_every=2, burn_in=0, **OPTIONS), net),
    "map": lambda net: class_activation_map(net, X),
    "map, LayerCAM": lambda net: class_activation_map(net, X, Y, "layercam", ["features", "last"]),
    "map, own source": lambda net: class_activation_map(net, X, cam=own_maps),
    **{
        f"map, {name}": lambda net, name=name: class_activation_map(net, X[:1], Y[:1], name, "features")
        for name in ("AblationCAM", "EigenCAM", "GradCAMPlusPlus", "HiResCAM")
    },
    "map, FullGrad": lambda net: class_activation_map(net, X[:1], Y[:1], "FullGrad"),
    "PixelPGD": lambda net: PixelPGD(net, **OPTIONS)(X, Y),
    "PixelPGD, targeted": lambda net: targeted(PixelPGD(net, **OPTIONS)),
    "PixelTPGD": lambda net: PixelTPGD(net, **OPTIONS)(X),
    "PixelMMA": lambda net: PixelMMA(net, **OPTIONS)(X, Y),
    "MMA": lambda net: MMA(net, 0.1, 0.05, 2)(X, Y),
    "save": lambda net: PixelPGD(net, **OPTIONS).save([(X, Y)], verbose=False),
    **{f"PixelAttack of {n}": lambda net, m=m: PixelAttack(m(net), eps_low=0.05)(X, Y) for n, m in ATTACKS.items()},
    "ART, PGD": art(lambda net: PixelProjectedGradientDescent(net, eps=0.1, eps_step=0.05, max_iter=2, eps_low=0.05)),
    "ART, FGM": pixel_art(lambda net: FastGradientMethod(net, eps=0.1)),
    "ART, wrapped PGD": pixel_art(lambda net: ProjectedGradientDescentPyTorch(net, eps=0.1, max_iter=2, verbose=False)),
    "ART, APGD": pixel_art(lambda net: AutoProjectedGradientDescent(net, eps=0.1, max_iter=2, nb_random_init=1)),
    "evaluate": lambda net: evaluate(net, X, Y, 0.1, ["natural", "pgd2", "mma1", "adaptive_pgd1"], **QUIET),
    "evaluate, toolkits": lambda net: evaluate(
        net,
        X,
        Y,
        0.1,
        [torchattacks.FAB(net, eps=0.1, steps=1, n_classes=3), FastGradientMethod(classifier(net), eps=0.1)],
        **QUIET,
    ),
    "evaluate, AutoAttack": lambda net: evaluate(net, X, predicted(net), 0.5, ["autoattack"], **QUIET),
    "gradient checks": lambda net: gradient_checks(
        net, X, Y, 0.1, 2, surrogate=nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), samples=2, **QUIET
    ),
    "corruptions": lambda net: corruption_accuracy(
        net, torch.rand(3, 3, 32, 32), Y, corruptions=["brightness"], severities=[1], **QUIET
    ),
}
TRAININGS = {
    "loss": lambda net: PART(burn_in=0, **OPTIONS).loss(net, X, Y),
    "PARTTrainer": fitted(PARTTrainer),
    "PARTTrainerTRADES": fitted(PARTTrainerTRADES),
    "PARTTrainerMART": fitted(PARTTrainerMART),
}


@contextlib.contextmanager
def silence():
    """Some toolkits print, whatever they are told."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def walk(call, net, check):
    """Raise at the k-th pass, for every k, or where there are many at about sixty of them, and check after each."""
    Fuse.set(-1)
    with silence():
        call(net)
    check(net)
    passes, struck = Fuse.passes, 0
    for number in count():
        at = number + 1 if number < 40 else round(40 * 1.3 ** (number - 39))
        if at > passes + 3:
            break
        Fuse.set(at)
        with silence(), contextlib.suppress(Struck):
            call(net)
            struck -= 1
        struck += 1
        check(net)
    Fuse.set(-1)
    assert struck > 0
    return struck


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_exception_anywhere_leaves_no_trace(net, call):
    before = snapshot(net)
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    hooks = len(nn.modules.module._global_forward_pre_hooks)

    def check(net):
        assert_untouched(net, before)
        assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        assert len(nn.modules.module._global_forward_pre_hooks) == hooks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walk(call, net, check)


@pytest.mark.parametrize("call", TRAININGS.values(), ids=TRAININGS)
def test_an_exception_in_a_training_changes_weights_alone(net, call):
    kept = ("modules", "layout", "modes", "hooks", "requires_grad")
    before = snapshot(net)

    def again(net):
        """A finished training leaves the network in eval mode, as in ART; an exception leaves it as it was."""
        for name, module in net.named_modules():
            module.training = before["modes"][name]
        call(net)
        for name, module in net.named_modules():
            module.training = before["modes"][name]

    def check(net):
        after = snapshot(net)
        assert {key: after[key] for key in kept} == {key: before[key] for key in kept}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walk(again, net, check)
