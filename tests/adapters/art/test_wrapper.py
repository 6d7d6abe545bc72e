"""`PixelEvasionAttack` around the l_inf attacks of ART, and `lift`."""

import numpy as np
import pytest
from adapters.art.helpers import classify, run
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    SquareAttack,
)

from part_plugin import (
    PixelBudget,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)
from part_plugin.adapters.art.wrapper import lift

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
    assert type(lift(BasicIterativeMethod(classifier, eps=0.1))) is PixelProjectedGradientDescent
    for other in (
        MomentumIterativeMethod(classifier, eps=0.1),
        ProjectedGradientDescent(classifier, eps=0.1, random_eps=True),
        FastGradientMethod(classifier, eps=0.1),
    ):
        assert type(lift(other)) is PixelEvasionAttack


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda c: FastGradientMethod(c, norm=2),
            "FastGradientMethod with norm=2 and eps=0.3 cannot be given a budget",
        ),
        (lambda c: ProjectedGradientDescent(c, norm=1), "with norm=1 and eps=0.3 cannot be given .*PART, Appendix A"),
        (lambda c: CarliniL2Method(c), "CarliniL2Method with norm=None and eps=None cannot be given"),
        (lambda c: DeepFool(c), "DeepFool with norm=None and eps=None cannot be given"),
        (
            lambda c: ProjectedGradientDescent(c, eps=np.full((1, 8, 8), 0.1), eps_step=np.full((1, 8, 8), 0.1)),
            "ProjectedGradientDescent with norm=inf and eps=an array cannot be given",
        ),
    ],
)
def test_what_cannot_be_lifted_is_refused_by_name(digits_net, make, message):
    with pytest.raises(ValueError, match=message):
        lift(make(classify(digits_net)))
