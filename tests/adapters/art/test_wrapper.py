"""`PixelEvasionAttack` around the l_inf attacks of ART, and `lift`."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import classify, run
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
    SquareAttack,
)
from torch import nn

from part_plugin import (
    FixedBudget,
    PixelBudget,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)
from part_plugin.adapters.art.classifier import classifier_view
from part_plugin.adapters.art.lifting import lift

EPS = 0.2


WRAPPED = {
    "FastGradientMethod": lambda c: FastGradientMethod(c, eps=EPS),
    "MomentumIterativeMethod": lambda c: MomentumIterativeMethod(
        c, eps=EPS, eps_step=EPS / 4, max_iter=5, verbose=False
    ),
    "APGD": lambda c: AutoProjectedGradientDescent(
        c, eps=EPS, eps_step=EPS / 4, max_iter=5, nb_random_init=1, loss_type="cross_entropy", verbose=False
    ),
    "Square": lambda c: SquareAttack(c, eps=EPS, max_iter=30, nb_restarts=1, verbose=False),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.3, 0.4)])
def test_wrapped_attacks(digits_net, batch, arrays, name, preprocessing):
    classifier = classify(digits_net, preprocessing=preprocessing)
    labels = np.eye(10)[arrays[1]]
    expected = run(WRAPPED[name](classifier), arrays[0], labels)
    same = PixelEvasionAttack(WRAPPED[name](classifier), eps_low=EPS)
    assert np.allclose(run(same, arrays[0], labels), expected, atol=1e-6)

    pixel = PixelEvasionAttack(WRAPPED[name](classifier), eps_low=EPS / 4)
    adv = run(pixel, arrays[0], labels)
    inputs = (batch[0] - preprocessing[0]) / preprocessing[1]
    radii = PixelBudget(EPS, EPS / 4)(digits_net.eval(), inputs).numpy()
    assert (np.abs(adv - arrays[0]) <= radii + 1e-6).all()
    assert np.abs(adv - arrays[0]).max() > EPS / 4 + 1e-3
    assert repr(pixel).startswith(f"PixelEvasionAttack[{type(pixel.attack).__name__}](")
    assert f"eps_low={EPS / 4}" in repr(pixel)
    assert f"budget={pixel.budget}, " in repr(pixel)


G_OF_Z = {
    "FastGradientMethod": lambda c: FastGradientMethod(c, eps=0.25),
    "MomentumIterativeMethod": lambda c: MomentumIterativeMethod(
        c, eps=0.25, eps_step=0.0625, verbose=False, max_iter=6
    ),
    "ProjectedGradientDescent": lambda c: ProjectedGradientDescent(
        c, eps=0.25, eps_step=0.0625, max_iter=6, verbose=False
    ),
}


class G(nn.Module):
    """g(z) = f((x + m * (z - x) - mean) / std), written out."""

    def __init__(self, net, images, m, mean, std):
        super().__init__()
        self.features, self.head = net.features, net.head
        self.g = lambda z: net((images + m * (z - images) - mean) / std)

    def forward(self, z):
        return self.g(z)


@pytest.mark.parametrize("name", G_OF_Z)
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.25, 0.5)])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_change_of_variable_equals_one_by_hand(digits_net, batch, arrays, name, preprocessing, targeted):
    """Every number is a fraction of 2, so to the bit."""
    x, y = arrays[0], (arrays[1] + targeted) % 10
    torch.manual_seed(0)
    m = torch.randint(5, (16, 1, 8, 8)) / 4
    by_hand = G_OF_Z[name](classify(G(digits_net, batch[0], m, *preprocessing)))
    by_hand.set_params(targeted=targeted, batch_size=16)
    z = by_hand.generate(x, y)
    attack = G_OF_Z[name](classify(digits_net, preprocessing=preprocessing))
    attack.set_params(targeted=targeted, batch_size=16)
    pixel = PixelEvasionAttack(attack, budget=FixedBudget(0.25 * m))
    assert pixel.targeted == targeted
    expected = x + m.numpy() * (z - x)
    assert (expected != x).any()
    assert np.array_equal(pixel.generate(x, y), expected)


def test_a_loss_that_is_a_method_of_the_attack_is_that_of_g(digits_net, batch, arrays):
    """As Square's is; otherwise it searches with the logits of z, and leaves the network in eval mode."""
    image, x, y = batch[0][:1], arrays[0][:1], arrays[1][:1]  # one, as Square sends the rows it has not fooled yet
    torch.manual_seed(0)
    m = torch.randint(5, (1, 1, 8, 8)) / 4

    def square(net):
        return SquareAttack(classify(net), eps=0.125, max_iter=60, verbose=False)

    z = run(square(G(digits_net, image, m, 0.0, 1.0)), x, y)
    digits_net.train()
    adv = run(PixelEvasionAttack(square(digits_net), budget=FixedBudget(0.125 * m)), x, y)
    assert (adv != x).any()
    assert np.array_equal(adv, x + m.numpy() * (z - x))
    assert digits_net.training


def test_settings_reach_the_wrapped_attack(digits_net, arrays):
    attack = FastGradientMethod(classify(digits_net), eps=EPS, batch_size=7)
    pixel = PixelEvasionAttack(attack, eps_low=EPS)
    assert (pixel.batch_size, pixel.targeted, pixel.verbose) == (7, False, False)
    pixel.set_params(batch_size=9)
    pixel.targeted = True
    assert (attack.batch_size, attack.targeted, pixel.batch_size, pixel.targeted) == (9, True, 9, True)
    expected = FastGradientMethod(classify(digits_net), eps=EPS, targeted=True).generate(*arrays)
    assert np.array_equal(pixel.generate(*arrays), expected)


@pytest.mark.parametrize("name", ["FastGradientMethod", "Square"])  # Square sends the rows it has not fooled yet
def test_radii_of_a_single_image_are_those_of_every_image(digits_net, batch, name):
    classifier = classify(digits_net)
    radii = EPS * torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for given in (radii, radii.expand(16, 1, 8, 8)):
        np.random.seed(0)
        attack = PixelEvasionAttack(WRAPPED[name](classifier))
        found.append(attack.craft(classifier_view(classifier), *batch, given))
    assert (found[0] != batch[0]).any()
    assert torch.equal(*found)


def test_lifting(digits_net):
    classifier = classify(digits_net)
    plain = ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.03, max_iter=9, num_random_init=2, batch_size=77, verbose=False
    )
    lifted = lift(plain, eps_low=0.05)
    assert isinstance(lifted, PixelProjectedGradientDescent)
    read = (lifted.eps, lifted.eps_low, lifted.eps_step, lifted.max_iter, lifted.num_random_init, lifted.batch_size)
    assert read == (0.1, 0.05, 0.03, 9, 2, 77)
    assert lift(plain).eps_low == pytest.approx(0.1 * 7 / 8)
    assert lift(lifted) is lifted
    assert lift(lifted, eps_low=None, budget=None) is lifted
    with pytest.raises(ValueError) as caught:
        lift(lifted, eps_low=None, cam="layercam", target="true")
    assert str(caught.value) == (
        "cam=layercam does not go with PixelProjectedGradientDescent, which has a budget already"
    )
    with pytest.raises(ValueError) as caught:
        PixelEvasionAttack(lifted)
    assert str(caught.value) == "attack is a PixelProjectedGradientDescent, which has a budget per pixel already"
    with pytest.raises(TypeError) as caught:
        lift("PGD")
    assert str(caught.value) == "attacks holds a str; ART EvasionAttack instances are needed"
    for plain in (BasicIterativeMethod(classifier, eps=0.1), ProjectedGradientDescentPyTorch(classifier, eps=0.1)):
        assert type(lift(plain)) is PixelProjectedGradientDescent
    settings = {"norm": "inf", "targeted": True, "verbose": False, "eps": 0.1}
    lifted = lift(ProjectedGradientDescent(classifier, **settings))
    assert {name: getattr(lifted, name) for name in settings} == settings
    for other in (
        MomentumIterativeMethod(classifier, eps=0.1),
        ProjectedGradientDescent(classifier, eps=0.1, random_eps=True),
        ProjectedGradientDescent(classifier, eps=0.1, decay=0.5),
        FastGradientMethod(classifier, eps=0.1),
    ):
        assert type(lift(other)) is PixelEvasionAttack


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda c: FastGradientMethod(c, norm=2), "FastGradientMethod with norm=2 and eps=0.3"),
        (lambda c: ProjectedGradientDescent(c, norm=1), "ProjectedGradientDescent with norm=1 and eps=0.3"),
        (lambda c: CarliniL2Method(c), "CarliniL2Method with norm=None and eps=None"),
        (lambda c: DeepFool(c), "DeepFool with norm=None and eps=None"),
        (
            lambda c: ProjectedGradientDescent(c, eps=np.full((1, 8, 8), 0.1), eps_step=np.full((1, 8, 8), 0.1)),
            "ProjectedGradientDescent with norm=inf and eps=an array",
        ),
    ],
)
def test_what_cannot_be_lifted_is_refused_by_name(digits_net, make, what):
    with pytest.raises(ValueError) as caught:
        lift(make(classify(digits_net)))
    assert str(caught.value) == (
        f"{what} cannot be given a budget per pixel; an l_inf attack with a number eps is needed (PART, Appendix A)"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda c: PixelEvasionAttack(FastGradientMethod(c, eps=8)),
            "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
        ),
        (
            lambda c: PixelEvasionAttack(FastGradientMethod(c, eps=0.1), eps_low=0.2),
            "eps_low=0.2 is larger than eps=0.1; it must be <= eps",
        ),
        (
            lambda c: PixelEvasionAttack(FastGradientMethod(c, eps=0.1), budget=FixedBudget(0.15)),
            "budget reaches 0.15, further than eps=0.1 of FastGradientMethod",
        ),
    ],
)
def test_wrong_settings(digits_net, make, message):
    with pytest.raises(ValueError) as caught:
        make(classify(digits_net))
    assert str(caught.value) == message


def test_a_wrapped_attack_gets_the_options_of_its_lift(digits_net):
    """They are the budget's, also where the attack is no plain PGD."""
    attack = MomentumIterativeMethod(classify(digits_net), eps=EPS, verbose=False)
    lifted = lift(attack, eps_low=EPS / 4, cam="layercam", target="true")
    assert isinstance(lifted, PixelEvasionAttack)
    assert (lifted.eps_low, lifted.budget.cam, lifted.budget.target) == (EPS / 4, "layercam", "true")


def test_what_is_no_attack_is_not_wrapped():
    with pytest.raises(TypeError) as caught:
        PixelEvasionAttack("pgd")
    assert str(caught.value) == "attack is a str; an ART EvasionAttack is needed"
