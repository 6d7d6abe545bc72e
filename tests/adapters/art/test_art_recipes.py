"""ART's own trainers with Pixel-AG attacks: at equal radii they train as with ART's PGD, and examples keep budgets."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify
from art.attacks.evasion import MomentumIterativeMethod, ProjectedGradientDescentPyTorch
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerOAATPyTorch,
    AdversarialTrainerTRADESPyTorch,
)
from conftest import SmallNet
from torch import nn

from part_plugin import PixelEvasionAttack, PixelProjectedGradientDescent

ATTACK = {"eps": EPS, "eps_step": EPS / 2, "max_iter": 3, "num_random_init": 1, "batch_size": 16, "verbose": False}


def everywhere(maps):
    """A rule by which every pixel is important: eps for all, also where eps changes."""
    return torch.ones_like(maps, dtype=torch.bool)


def classifier(seed=0):
    torch.manual_seed(seed)
    net = SmallNet()
    net.dropout = nn.Identity()  # ART's PGD draws a number from torch's generator for every batch
    return classify(net)


def madry(trained, attack):
    trainer = AdversarialTrainerMadryPGD(trained, nb_epochs=4, eps=EPS, eps_step=EPS / 2, max_iter=3)
    trainer.trainer.attacks = [attack]
    return trainer


def oaat(folder, trained, attack):
    """All its phases in four epochs: eps that grows, its own attack beside the given one, and averaged weights."""
    settings = {
        "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "lr_schedule": "cosine", "oaat_warmup": 0, "norm": np.inf,
        "awp_gamma": 0.01, "awp_warmup": 1, "beta": 6.0, "beta_final": 3.0, "max_iter": 3, "epsilon": EPS,
        "i_epsilon": EPS / 4, "alternate_iter_eps": 0.6 * EPS, "mixup_epsilon": 1.5 * EPS, "mixup_alpha": 0.2,
        "alpha": 1.0, "lpips_weight": 1.0, "i_lpips_weight": 0.0, "layer_names_activation": ["features"],
        "swa_save_epoch": 1, "list_swa_epoch": [0], "list_swa_tau": [0.9], "load_swa_model_tau": 0.9,
        "models_path": str(folder),
    }  # fmt: skip
    others = classifier(1), classifier(2), [classifier(3)]
    return AdversarialTrainerOAATPyTorch(trained, *others, attack, settings)


TRAINERS = {
    "all of a batch": lambda c, a, folder: AdversarialTrainer(c, a, ratio=1.0),
    "half of a batch": lambda c, a, folder: AdversarialTrainer(c, a, ratio=0.5),
    "Madry": lambda c, a, folder: madry(c, a),
    "TRADES": lambda c, a, folder: AdversarialTrainerTRADESPyTorch(c, a, beta=6.0),
    "AWP": lambda c, a, folder: AdversarialTrainerAWPPyTorch(c, classifier(1), a, "PGD", 0.01, 6.0, 1),
    "AWP of TRADES": lambda c, a, folder: AdversarialTrainerAWPPyTorch(c, classifier(1), a, "TRADES", 0.01, 6.0, 1),
    "OAAT": lambda c, a, folder: oaat(folder, c, a),
}
SHUFFLED_ONCE_MORE = ("all of a batch", "half of a batch", "Madry")  # by fit, so that sums are rounded otherwise


def train(make, attack, dataset, folder, watch=lambda attack: None):
    """Return the weights after a training from the same seeds."""
    trained = classifier()
    made = attack(trained)
    trainer = make(trained, made, folder)
    watch(made)
    np.random.seed(0)
    torch.manual_seed(0)
    trainer.fit(dataset[0][:48], dataset[1][:48], batch_size=16, nb_epochs=4)
    return trained.model.state_dict()


@pytest.mark.parametrize("name", TRAINERS)
def test_equal_radii_give_the_weights_of_arts_own_attack(dataset, tmp_path, name):
    attacks = [
        lambda trained: ProjectedGradientDescentPyTorch(trained, **ATTACK),
        lambda trained: PixelProjectedGradientDescent(trained, **ATTACK, rule=everywhere),
        lambda trained: PixelProjectedGradientDescent(trained, **ATTACK),
    ]
    theirs, equal, lowered = (train(TRAINERS[name], attack, dataset, tmp_path) for attack in attacks)
    for key, weight in theirs.items():
        if name in SHUFFLED_ONCE_MORE:
            torch.testing.assert_close(equal[key], weight, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(equal[key], weight), key
    assert (lowered["features.0.weight"] - theirs["features.0.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("wrapped", [False, True], ids=["PGD", "wrapped"])
@pytest.mark.parametrize("name", TRAINERS)
def test_examples_keep_the_budget_of_their_moment(dataset, tmp_path, name, wrapped):
    """Radii are computed on the network as it is when the examples are made; OAAT changes eps, of which 7/8 remain."""
    seen = []

    def attack(trained):
        if wrapped:
            given = {name: value for name, value in ATTACK.items() if name != "num_random_init"}
            return PixelEvasionAttack(MomentumIterativeMethod(trained, **given))
        return PixelProjectedGradientDescent(trained, **ATTACK)

    def watch(attack):
        generate = attack.generate

        def watched(x, y=None, **options):
            radii = attack.budget(attack.estimator.model, torch.from_numpy(x))
            adv = generate(x, y=y, **options)
            seen.append((attack.eps, attack.eps_low, radii.numpy(), np.abs(adv - x)))
            assert adv.min() >= 0
            assert adv.max() <= 1
            return adv

        attack.generate = watched

    train(TRAINERS[name], attack, dataset, tmp_path, watch)
    assert len(seen) == (11 if name == "OAAT" else 12)
    for eps, eps_low, radii, moved in seen:
        assert eps_low == pytest.approx(7 / 8 * eps)
        assert (moved <= radii + 1e-7).all()
    radii, moved = (np.concatenate([batch[i].ravel() for batch in seen[:3]]) for i in (2, 3))
    assert 0.01 < (radii == radii.max()).mean() < 0.6
    assert (moved > seen[0][1] + 1e-6).sum() > 10  # important pixels use what they may
    changed = {round(eps / EPS, 6) for eps, *_ in seen}
    assert changed == ({0.25, 0.5, 1.5} if name == "OAAT" else {1.0})


def test_an_eps_low_that_oaat_would_go_below_is_refused(dataset, tmp_path):
    def attack(trained):
        return PixelProjectedGradientDescent(trained, **ATTACK, eps_low=0.09)

    with pytest.raises(ValueError, match=r"^eps_low=0\.09 is larger than eps=0\.025; it must be <= eps$"):
        train(TRAINERS["OAAT"], attack, dataset, tmp_path)
