"""Evaluation: `evaluate` and what it is given."""

import torch
import torchattacks
from conftest import SmallNet
from mistakes.mistake import Mistake, each
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import PixelPGD, evaluate
from part_plugin.evaluation.attacks import KNOWN

with torch.random.fork_rng():
    torch.manual_seed(0)
    NET, X, Y = SmallNet().eval(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
X[0, 0, 0, 0], X[1, 0, 7, 7] = 0, 1


def evaluated(x=X, y=Y, model=NET, attacks=("natural",), **options):
    return evaluate(model, x, y, attacks=attacks, verbose=False, **options)


class Returning(nn.Module):
    """A model that returns something else than logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(NET(x))


CALLS = iter(range(100))

MISTAKES = [
    # images and labels
    Mistake(
        "a data loader for the images",
        lambda: evaluate(NET, DataLoader(TensorDataset(X, Y))),
        TypeError,
        "x is a DataLoader; images and labels are needed: x, y = map(torch.cat, zip(*loader))",
    ),
    Mistake(
        "a data set for the images",
        lambda: evaluate(NET, TensorDataset(X, Y)),
        TypeError,
        "x is a TensorDataset; images and labels are needed: x, y = next(iter(DataLoader(dataset, len(dataset))))",
    ),
    Mistake(
        "a list of images",
        lambda: evaluated(list(X)),
        TypeError,
        "x is a list; images as a tensor or an array (N, C, H, W) are needed (torch.stack makes one of a list)",
    ),
    Mistake(
        "the name of a data set",
        lambda: evaluated("cifar10"),
        TypeError,
        "x is a str; images as a tensor or an array (N, C, H, W) are needed",
    ),
    Mistake(
        "pictures as bytes",
        lambda: evaluated((255 * X).byte().numpy()),
        TypeError,
        "images are torch.uint8; a floating-point tensor is needed (uint8 / 255 for pictures)",
    ),
    Mistake(
        "bytes as floats",
        lambda: evaluated(255 * X),
        ValueError,
        "images span [0, 255]; allowed is [0, 1]; divide them by 255",
    ),
    Mistake(
        "normalised images",
        lambda: evaluated(4 * X - 2),
        ValueError,
        "images span [-2, 2]; allowed is [0, 1]; move their normalisation into the model: "
        "nn.Sequential(Normalize(mean, std), model)",
    ),
    Mistake(
        "channels last",
        lambda: evaluated(torch.rand(2, 8, 8, 3).numpy(), model=SmallNet(3)),
        ValueError,
        "images have shape (2, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)",
    ),
    Mistake(
        "double precision, as NumPy gives it",
        lambda: evaluated(X.double().numpy()),
        TypeError,
        "images are torch.float64 and the model's weights torch.float32; pass images.to(torch.float32)",
    ),
    Mistake(
        "no labels",
        lambda: evaluated(y=None),
        TypeError,
        "labels=None is not allowed here; a tensor of class indices is needed",
    ),
    Mistake(
        "flags as labels",
        lambda: evaluated(y=[False, True]),
        TypeError,
        "labels are torch.bool; class indices are needed (labels.long() for classes 0 and 1)",
    ),
    Mistake(
        "labels that the model does not have",
        lambda: evaluated(y=Y + 9),
        ValueError,
        "labels contain class 10; allowed is 0 to 9",
    ),
    Mistake(
        "fewer labels than images",
        lambda: evaluated(y=Y[:1]),
        ValueError,
        "labels have shape (1,); expected (2,), (2, 1) or (2, K)",
    ),
    # the model
    Mistake(
        "the path of a checkpoint for the model",
        lambda: evaluated(model="at.pt"),
        TypeError,
        "model is a str; a torch.nn.Module is needed",
    ),
    Mistake(
        "a model with a softmax",
        lambda: evaluated(model=Returning(lambda z: z.softmax(1))),
        ValueError,
        "the model's output is a probability distribution; attacks need the logits (strict=False evaluates it all the "
        "same)",
    ),
    Mistake(
        "a randomised defence",
        lambda: evaluated(model=Returning(lambda z: z + next(CALLS))),
        ValueError,
        "the model's logits change from call to call, as in a randomised defence (strict=False evaluates it all the "
        "same)",
    ),
    Mistake(
        "a model that normalises over the batch",
        lambda: evaluated(model=Returning(lambda z: z - z.mean(0))),
        ValueError,
        "the model's logits of an image depend on the other images of the batch (strict=False evaluates it all the "
        "same)",
    ),
    Mistake(
        "a model whose training diverged",
        lambda: evaluated(model=Returning(lambda z: z * torch.nan)),
        ValueError,
        "the model's logits are not finite on the first images",
    ),
    Mistake(
        "a model that detaches its output",
        lambda: evaluated(model=Returning(torch.Tensor.detach), attacks=["natural", "pgd1"]),
        ValueError,
        "the model's output carries no gradient to the images: its forward pass detaches it, by no_grad, detach or "
        "quantised layers",
    ),
    Mistake(
        "a name for the surrogate",
        lambda: evaluated(surrogate="resnet18"),
        TypeError,
        "surrogate is a str; a torch.nn.Module is needed",
    ),
    # attacks
    Mistake(
        "one name for the list of attacks",
        lambda: evaluated(attacks="pgd20"),
        TypeError,
        "attacks='pgd20' is a str; a list is needed, such as ['natural', 'pgd20']",
    ),
    Mistake(
        "one attack for the list of attacks",
        lambda: evaluated(attacks=PixelPGD(NET)),
        TypeError,
        "attacks=<PixelPGD> is a PixelPGD; a list is needed, such as ['natural', 'pgd20']",
    ),
    Mistake(
        "attacks where the radius belongs",
        lambda: evaluate(NET, X, Y, ["natural"]),
        TypeError,
        "eps=['natural'] is a list; a number or text such as '8/255' is needed",
    ),
    Mistake(
        "a suite beside attacks",
        lambda: evaluated(suite="quick"),
        ValueError,
        "suite='quick' does not go with attacks=('natural',); pass one of them",
    ),
    Mistake(
        "a suite that there is not",
        lambda: evaluate(NET, X, Y, suite="full"),
        ValueError,
        "suite='full' is not known; choose from 'quick', 'standard', 'paper'",
    ),
    Mistake("no attacks", lambda: evaluated(attacks=[]), ValueError, f"attacks is empty; choose from {KNOWN}"),
    Mistake(
        "an attack in capitals",
        lambda: evaluated(attacks=["PGD20"]),
        ValueError,
        f"attacks holds 'PGD20'; choose from {KNOWN}",
    ),
    Mistake(
        "an attack without its number of steps",
        lambda: evaluated(attacks=["pgd"]),
        ValueError,
        f"attacks holds 'pgd'; choose from {KNOWN}",
    ),
    Mistake("a name twice", lambda: evaluated(attacks=["pgd20", "pgd20"]), ValueError, "attacks holds 'pgd20' twice"),
    Mistake(
        "an attack's class",
        lambda: evaluated(attacks=["natural", torchattacks.PGD]),
        TypeError,
        "attacks holds the class PGD; an attack is needed: PGD(model)",
    ),
    Mistake(
        "an attack twice",
        lambda: evaluated(attacks=2 * [torchattacks.PGD(NET)]),
        ValueError,
        "attacks holds the same PGD twice",
    ),
    Mistake(
        "Pixel-AG as the only evidence",
        lambda: evaluated(attacks=["natural", PixelPGD(NET)]),
        ValueError,
        "attacks holds PixelPGD with eps_low < eps=0.03137 as the only evidence; add an attack that lets every pixel "
        "move by eps, such as 'pgd20' or 'autoattack'",
    ),
    Mistake(
        "an attack made for another range of images",
        lambda: evaluated(attacks=["natural", Overstepping(NET)]),
        RuntimeError,
        "attacks holds FGSM, which moved a pixel by 0.5, further than its eps=0.01; its images must be in [0, 1] "
        "(set_normalization_used, clip_values)",
    ),
    Mistake(
        "an attack that returns more than images",
        lambda: evaluated(attacks=["natural", Pair(NET)]),
        ValueError,
        "attacks holds FGSM, which returned a tuple; images (2, 1, 8, 8) are needed",
    ),
    Mistake(
        "corruptions of small images",
        lambda: evaluated(attacks=["corruptions"]),
        ValueError,
        "images have shape (2, 1, 8, 8); (N, 3, H, W) with H and W >= 32 is needed",
    ),
    # numbers
    Mistake(
        "a radius in 255ths",
        lambda: evaluated(eps=8),
        ValueError,
        "eps=8 is not a radius; it must be in [0, 1], as a number or as in '8/255'",
    ),
    Mistake(
        "a radius as text that is no fraction",
        lambda: evaluated(eps="8:255"),
        ValueError,
        "eps='8:255' is not a radius; it must be in [0, 1], as a number or as in '8/255'",
    ),
    Mistake(
        "a radius for the adaptive budget",
        lambda: evaluated(adaptive=0.05),
        TypeError,
        "adaptive=0.05 is a float; a Budget such as PixelBudget is needed",
    ),
    Mistake(
        "an empty batch",
        lambda: evaluated(batch_size=0),
        ValueError,
        "batch_size=0 is not allowed; it must be >= 1",
    ),
    Mistake("a negative seed", lambda: evaluated(seed=-1), ValueError, "seed=-1 is not allowed; it must be >= 0"),
    Mistake(
        "gradients checked within a radius of 0",
        lambda: evaluated(attacks=["gradients"], eps=0),
        ValueError,
        "eps=0.0 is not allowed; it must be > 0",
    ),
    # results
    Mistake(
        "an attack that was not evaluated",
        lambda: evaluated()["pgd20"],
        KeyError,
        "\"'pgd20' was not evaluated; there are ['natural']\"",
    ),
]


class Overstepping(torchattacks.FGSM):
    """An attack that moves pixels further than its radius."""

    def __init__(self, model):
        super().__init__(model, eps=0.01)

    def forward(self, images, labels=None):
        return torch.where(images < 0.5, images + 0.5, images)


class Pair(torchattacks.FGSM):
    """An attack that returns more than images."""

    def forward(self, images, labels=None):
        return super().forward(images, labels), labels


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    mistake.check()
