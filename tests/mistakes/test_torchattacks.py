"""Attacks of torchattacks: PixelPGD, PixelTPGD, PixelMMA, MMA, PixelAttack."""

import torch
import torchattacks
from conftest import SmallNet
from mistakes.mistake import Mistake, each
from torch import nn

from part_plugin import MMA, FixedBudget, PixelAttack, PixelMMA, PixelPGD, PixelTPGD

with torch.random.fork_rng():
    torch.manual_seed(0)
    NET, X, Y = SmallNet().eval(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
X[0, 0, 0, 0], X[1, 0, 7, 7] = 0, 1


def normalised(mean, std, x=X):
    attack = PixelPGD(NET)
    attack.set_normalization_used(mean, std)
    return attack(x, Y)


def targeted(function):
    attack = PixelPGD(NET)
    attack.set_mode_targeted_by_function(function, quiet=True)
    return attack(X, Y)


def without_targets(attack):
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(X)


class Larger(torchattacks.FGSM):
    """An attack that sends larger images through the model."""

    def forward(self, images, labels=None):
        return super().forward(nn.functional.interpolate(images, size=(9, 9)), labels)


class Pair(torchattacks.FGSM):
    """An attack that returns more than images."""

    def forward(self, images, labels=None):
        return super().forward(images, labels), labels


class Detached(nn.Module):
    def forward(self, x):
        return NET(x).detach()


MISTAKES = [
    # how it is made
    Mistake(
        "a function for the model",
        lambda: PixelPGD(lambda x: NET(x)),
        TypeError,
        "model is a function; a torch.nn.Module is needed",
    ),
    Mistake(
        "the images for the model", lambda: PixelPGD(X), TypeError, "model is a Tensor; a torch.nn.Module is needed"
    ),
    Mistake(
        "a radius in 255ths",
        lambda: PixelPGD(NET, 8),
        ValueError,
        "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
    ),
    Mistake(
        "a step in 255ths",
        lambda: PixelPGD(NET, alpha=2),
        ValueError,
        "alpha=2 is larger than the range of the images, 1; did you mean 2/255?",
    ),
    Mistake(
        "the low radius where torchattacks has random_start",
        lambda: PixelPGD(NET, 0.1, 0.02, 10, 0.05),
        TypeError,
        "random_start=0.05 is a float; True or False is needed",
    ),
    Mistake(
        "a word for a flag",
        lambda: PixelMMA(NET, random_start="no"),
        TypeError,
        "random_start='no' is a str; True or False is needed",
    ),
    Mistake("no step", lambda: PixelTPGD(NET, alpha=0), ValueError, "alpha=0 is not allowed; it must be > 0"),
    Mistake("no steps", lambda: PixelTPGD(NET, steps=0), ValueError, "steps=0 is not allowed; it must be >= 1"),
    Mistake("a radius as text", lambda: MMA(NET, "8/255"), TypeError, "eps='8/255' is a str; a number is needed"),
    Mistake(
        "a radius that is not a number",
        lambda: MMA(NET, torch.nan),
        ValueError,
        "eps=nan is not allowed; it must be >= 0",
    ),
    Mistake("no targets", lambda: MMA(NET, targets=0), ValueError, "targets=0 is not allowed; it must be >= 1"),
    Mistake(
        "the two radii the wrong way round",
        lambda: PixelPGD(NET, 0.1, eps_low=0.2),
        ValueError,
        "eps_low=0.2 is larger than eps=0.1; it must be <= eps",
    ),
    Mistake(
        "a burn-in of an attack",
        lambda: PixelPGD(NET, burn_in=20),
        TypeError,
        "burn_in=20 is not for attacks, which count no epochs; PART and PARTTrainer take it",
    ),
    Mistake(
        "the renewal of masks of an attack",
        lambda: PixelAttack(torchattacks.FGSM(NET), mask_every=10),
        TypeError,
        "mask_every=10 is not for attacks, which count no epochs; PART and PARTTrainer take it",
    ),
    Mistake(
        "an option that there is not",
        lambda: PixelPGD(NET, threshold=1.0),
        TypeError,
        "threshold=1.0 is no argument here and no option of a budget, which are cam, target_layers, "
        "reshape_transform, rule, target",
    ),
    Mistake(
        "a budget beside an option of one",
        lambda: PixelPGD(NET, budget=FixedBudget(0.1), cam="layercam"),
        ValueError,
        "cam=layercam does not go with budget=FixedBudget(eps=0.1), which has its own",
    ),
    Mistake(
        "a fast option that there is not",
        lambda: PixelPGD(NET, fast="half"),
        ValueError,
        "fast holds 'half'; choose from 'fold', 'compile', 'bfloat16', 'float16'",
    ),
    # what is set later
    Mistake(
        "a radius below the low one that was given",
        lambda: setattr(PixelPGD(NET, 0.1, eps_low=0.05), "eps", 0.01),
        ValueError,
        "eps_low=0.05 is larger than eps=0.01; it must be <= eps",
    ),
    Mistake(
        "a new radius of a fixed budget",
        lambda: setattr(PixelPGD(NET, budget=FixedBudget(0.1)), "eps", 0.2),
        ValueError,
        "eps=0.2 cannot be set: FixedBudget(eps=0.1) keeps its radii; make a new attack",
    ),
    Mistake(
        "one mean for all channels, not in a list",
        lambda: normalised(0.5, 0.5),
        ValueError,
        "mean=0.5 and std=0.5 are not allowed; one number per channel is needed",
    ),
    Mistake(
        "means and standard deviations of different channels",
        lambda: normalised([0.5], [0.5, 0.5, 0.5]),
        ValueError,
        "mean=[0.5] and std=[0.5, 0.5, 0.5] are not allowed; one number per channel is needed",
    ),
    Mistake(
        "a standard deviation of 0",
        lambda: normalised([0.5], [0.0]),
        ValueError,
        "mean=[0.5] and std=[0.0] are not allowed; std must be > 0, both finite",
    ),
    Mistake(
        "ImageNet's normalisation of grey images",
        lambda: normalised([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ValueError,
        "images have 1 channels; set_normalization_used was given 3 means",
    ),
    Mistake(
        "a targeted mode of an attack without a label",
        lambda: PixelTPGD(NET).set_mode_targeted_random(),
        ValueError,
        "PixelTPGD has no targeted mode: it leaves the natural output, whatever class that is",
    ),
    Mistake(
        "a targeted mode of the minimum-margin attack",
        lambda: PixelMMA(NET).set_mode_targeted_least_likely(),
        ValueError,
        "PixelMMA has no targeted mode: it chooses its targets itself, the most likely wrong classes",
    ),
    Mistake(
        "a targeted mode of an attack that has none in torchattacks",
        lambda: PixelAttack(torchattacks.TPGD(NET)).set_mode_targeted_by_label(),
        ValueError,
        "PixelAttack[TPGD] has no targeted mode: TPGD has none",
    ),
    # what it is called with
    Mistake(
        "normalised images",
        lambda: PixelPGD(NET)(4 * X - 2, Y),
        ValueError,
        "images span [-2, 2]; allowed is [0, 1]; call set_normalization_used(mean, std) or move the normalisation into "
        "the model",
    ),
    Mistake(
        "bytes as floats",
        lambda: PixelTPGD(NET)(255 * X, Y),
        ValueError,
        "images span [0, 255]; allowed is [0, 1]; divide them by 255",
    ),
    Mistake(
        "a numpy array",
        lambda: PixelPGD(NET)(X.numpy(), Y),
        TypeError,
        "images are a ndarray; a floating-point tensor is needed (torch.from_numpy(x).float() makes one)",
    ),
    Mistake(
        "channels last",
        lambda: PixelPGD(SmallNet(3))(torch.rand(2, 8, 8, 3), Y),
        ValueError,
        "images have shape (2, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)",
    ),
    Mistake(
        "double precision",
        lambda: PixelMMA(NET)(X.double(), Y),
        TypeError,
        "images are torch.float64 and the model's weights torch.float32; pass images.to(torch.float32)",
    ),
    Mistake(
        "single precision for a network of half precision",
        lambda: PixelPGD(SmallNet().half())(X, Y),
        TypeError,
        "images are torch.float32 and the model's weights torch.float16; pass images.to(torch.float16)",
    ),
    Mistake(
        "a wrapped attack on a model that detaches its output",
        lambda: PixelAttack(torchattacks.BIM(Detached()), budget=FixedBudget(8 / 255))(X, Y),
        ValueError,
        "the model's output carries no gradient to the images: its forward pass detaches it, by no_grad, detach or "
        "quantised layers",
    ),
    Mistake(
        "targets that are missing",
        lambda: without_targets(PixelPGD(NET)),
        ValueError,
        "labels=None does not go with set_mode_targeted_by_label; pass the target classes",
    ),
    Mistake(
        "a function that gives fewer targets than images",
        lambda: targeted(lambda images, labels: labels[:1]),
        ValueError,
        "labels have shape (1,); expected (2,), (2, 1) or (2, K)",
    ),
    Mistake(
        "a function that gives a class that there is not",
        lambda: targeted(lambda images, labels: labels + 9),
        ValueError,
        "labels contain class 10; allowed is 0 to 9",
    ),
    Mistake(
        "labels that a wrapped attack's model does not have",
        lambda: PixelAttack(torchattacks.BIM(NET))(X, Y + 9),
        ValueError,
        "labels contain class 10; allowed is 0 to 9",
    ),
    # PixelAttack
    Mistake(
        "the model for the attack",
        lambda: PixelAttack(NET),
        TypeError,
        "attack is a SmallNet; a torchattacks Attack is needed",
    ),
    Mistake(
        "an attack's class",
        lambda: PixelAttack(torchattacks.PGD),
        TypeError,
        "attack is the class PGD; an attack is needed: PGD(model)",
    ),
    Mistake(
        "an l_2 attack",
        lambda: PixelAttack(torchattacks.PGDL2(NET)),
        ValueError,
        "attack=PGDL2 cannot be given a budget per pixel; an l_inf attack with a number eps is needed (PART, Appendix "
        "A)",
    ),
    Mistake(
        "an attack of either norm, made for l_2",
        lambda: PixelAttack(torchattacks.APGD(NET, norm="L2")),
        ValueError,
        "attack=APGD cannot be given a budget per pixel; an l_inf attack with a number eps is needed (PART, Appendix "
        "A)",
    ),
    Mistake(
        "an attack that has a budget per pixel",
        lambda: PixelAttack(PixelPGD(NET)),
        ValueError,
        "attack=PixelPGD has a budget per pixel already",
    ),
    Mistake(
        "several attacks in one",
        lambda: PixelAttack(torchattacks.MultiAttack([torchattacks.FGSM(NET), torchattacks.PGD(NET)])),
        ValueError,
        "attack=MultiAttack has no radius; wrap its attacks: MultiAttack([PixelAttack(attack), ...])",
    ),
    Mistake(
        "an attack that makes its attack later",
        lambda: PixelAttack(torchattacks.LGV(NET, [])),
        ValueError,
        "attack=LGV makes its attack later: LGV(..., attack_class=PixelPGD, n_grad=-1) has a budget per pixel",
    ),
    Mistake(
        "a budget larger than the attack's radius",
        lambda: PixelAttack(torchattacks.FGSM(NET, eps=0.1), budget=FixedBudget(0.15)),
        ValueError,
        "budget reaches 0.15, further than eps=0.1 of FGSM",
    ),
    Mistake(
        "grey images for an attack on colours",
        lambda: PixelAttack(torchattacks.PIFGSM(NET))(X, Y),
        ValueError,
        "images have 1 channels; PIFGSM takes 3 alone",
    ),
    Mistake(
        "an attack that returns more than images",
        lambda: PixelAttack(Pair(NET))(X, Y),
        ValueError,
        "FGSM returned a tuple; images of shape (2, 1, 8, 8) are needed",
    ),
    Mistake(
        "an attack that changes the image size",
        lambda: PixelAttack(Larger(NET))(X, Y),
        ValueError,
        "the attack sends inputs of shape (2, 1, 9, 9) for images of shape (2, 1, 8, 8); an attack that changes the "
        "image size cannot be given a budget per pixel",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    mistake.check()
