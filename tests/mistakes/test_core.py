"""A loop of one's own: PART, budgets, rules."""

import torch
from conftest import SmallNet
from mistakes.mistake import Mistake, each
from torch import nn

from part_plugin import PART, TRADES, FixedBudget, PixelBudget, Threshold, TopShare

with torch.random.fork_rng():
    torch.manual_seed(0)
    NET, X, Y = SmallNet().eval(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
X[0, 0, 0, 0], X[1, 0, 7, 7] = 0, 1


def loss(x=X, y=Y, model=NET, epoch=0, options=None, **given):
    part = PART(**({"burn_in": 0} | (options or {})))
    part.set_epoch(epoch)
    return part.loss(model, x, y, **given)


class Returning(nn.Module):
    """A model that returns something else than logits."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = SmallNet(), change

    def forward(self, x):
        return self.change(self.net(x))


def warm_up(epoch):
    return 0.05 * (epoch + 1)


def wide(maps):
    return 2 * torch.ones_like(maps)


def narrow(maps):
    return maps[:, :, 1:]


class Large:
    eps = 0.1

    def __call__(self, model, images, labels):
        return torch.full_like(images, 0.5)


MISTAKES = [
    # images
    Mistake(
        "pictures as bytes",
        lambda: loss((255 * X).byte()),
        TypeError,
        "images are torch.uint8; a floating-point tensor is needed (uint8 / 255 for pictures)",
    ),
    Mistake(
        "bytes as floats",
        lambda: loss(255 * X),
        ValueError,
        "images span [0, 255]; allowed is [0, 1]; divide them by 255",
    ),
    Mistake(
        "normalised images",
        lambda: loss(4 * X - 2),
        ValueError,
        "images span [-2, 2]; allowed is [0, 1]; clip=(smallest, largest) tells the range of normalised images, and "
        "eps and alpha are in their units",
    ),
    Mistake(
        "images as a numpy array",
        lambda: loss(X.numpy()),
        TypeError,
        "images are a ndarray; a floating-point tensor is needed (torch.from_numpy(x).float() makes one)",
    ),
    Mistake(
        "a list of images",
        lambda: loss(list(X)),
        TypeError,
        "images are a list; a floating-point tensor is needed (torch.stack makes one of a list)",
    ),
    Mistake(
        "a whole batch, images and labels, for the images",
        lambda: loss((X, Y)),
        TypeError,
        "images are a tuple; a floating-point tensor is needed (torch.stack makes one of a list)",
    ),
    Mistake(
        "channels last, as TensorFlow and Pillow have them",
        lambda: loss(torch.rand(2, 8, 8, 3), model=SmallNet(3)),
        ValueError,
        "images have shape (2, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)",
    ),
    Mistake(
        "grey images for a network of colours",
        lambda: loss(model=SmallNet(3)),
        ValueError,
        "images have shape (2, 1, 8, 8), one channel; the model takes 3: images.expand(-1, 3, -1, -1)",
    ),
    Mistake(
        "images of another size than the network's",
        lambda: loss(model=nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 10))),
        ValueError,
        "images have shape (2, 1, 8, 8), of a height and width that the model does not take",
    ),
    Mistake(
        "images with an alpha channel",
        lambda: loss(torch.rand(2, 4, 8, 8), model=SmallNet(3)),
        ValueError,
        "images have shape (2, 4, 8, 8), 4 channels; the model takes 3",
    ),
    Mistake(
        "one image instead of a batch",
        lambda: loss(X[0], Y[:1]),
        ValueError,
        "images have shape (1, 8, 8); (N, C, H, W) with N >= 1 is needed: images[None] for one image, "
        "images[:, None] for grey ones",
    ),
    Mistake(
        "an empty batch",
        lambda: loss(X[:0], Y[:0]),
        ValueError,
        "images have shape (0, 1, 8, 8); (N, C, H, W) with N >= 1 is needed",
    ),
    Mistake(
        "NaN in the images",
        lambda: loss(X * torch.nan),
        ValueError,
        "images contain NaN or infinite values; they must be finite",
    ),
    Mistake(
        "double precision, as NumPy gives it",
        lambda: loss(X.double()),
        TypeError,
        "images are torch.float64 and the model's weights torch.float32; pass images.to(torch.float32)",
    ),
    Mistake(
        "half precision for a network of single precision",
        lambda: loss(X.half()),
        TypeError,
        "images are torch.float16 and the model's weights torch.float32; pass images.to(torch.float32)",
    ),
    Mistake(
        "a sparse tensor",
        lambda: loss(X.to_sparse()),
        TypeError,
        "images are torch.sparse_coo; a dense tensor is needed: images.to_dense()",
    ),
    Mistake(
        "images and labels the wrong way round",
        lambda: loss(Y, X),
        TypeError,
        "images are torch.int64; a floating-point tensor is needed (uint8 / 255 for pictures)",
    ),
    # labels
    Mistake(
        "no labels",
        lambda: loss(y=None),
        TypeError,
        "labels=None is not allowed here; a tensor of class indices is needed",
    ),
    Mistake(
        "flags as labels",
        lambda: loss(y=Y > 0),
        TypeError,
        "labels are torch.bool; class indices are needed (labels.long() for classes 0 and 1)",
    ),
    Mistake(
        "class names as labels",
        lambda: loss(y=["cat", "dog"]),
        TypeError,
        "labels are a list; a tensor of class indices is needed",
    ),
    Mistake(
        "fewer labels than images",
        lambda: loss(y=Y[:1]),
        ValueError,
        "labels have shape (1,); expected (2,), (2, 1) or (2, K)",
    ),
    Mistake(
        "several classes for an image",
        lambda: loss(y=torch.ones(2, 10)),
        ValueError,
        "labels of shape (2, 10) are neither one-hot nor probabilities; each row must sum to 1",
    ),
    Mistake(
        "probabilities of another number of classes",
        lambda: loss(y=torch.full((2, 4), 0.25)),
        ValueError,
        "labels have shape (2, 4); the model has 10 classes",
    ),
    Mistake(
        "labels that are not whole",
        lambda: loss(y=Y + 0.5),
        ValueError,
        "labels are not whole numbers; class indices are needed",
    ),
    Mistake(
        "classes counted from 1",
        lambda: loss(y=Y + 9),
        ValueError,
        "labels contain class 10; allowed is 0 to 9",
    ),
    Mistake(
        "-1 for a class that is not known",
        lambda: loss(y=Y - 1),
        ValueError,
        "labels contain class -1; allowed is 0 and above",
    ),
    # the model
    Mistake(
        "a function for the model",
        lambda: loss(model=lambda x: NET(x)),
        TypeError,
        "model is a function; a torch.nn.Module is needed",
    ),
    Mistake(
        "model and images the wrong way round",
        lambda: PART(burn_in=0).loss(X, NET, Y),
        TypeError,
        "images are a SmallNet; a floating-point tensor is needed (uint8 / 255 for pictures)",
    ),
    Mistake(
        "model and images on two devices",
        lambda: loss(model=SmallNet().to("meta")),
        ValueError,
        "images are on cpu and the model is on meta; one of them must move",
    ),
    Mistake(
        "a model that detaches its output",
        lambda: loss(model=Returning(torch.Tensor.detach), options={"eps_low": 8 / 255}),
        ValueError,
        "the model's output carries no gradient to the images: its forward pass detaches it, by no_grad, detach or "
        "quantised layers",
    ),
    Mistake(
        "a scripted model",
        lambda: loss(model=torch.jit.script(SmallNet())),
        ValueError,
        "the model is scripted, traced or exported, and a map looks into its layers; pass the model as it was before, "
        "a cam of your own, budget=FixedBudget(eps), or masks of your own as important",
    ),
    Mistake(
        "a model that returns its loss",
        lambda: loss(model=Returning(torch.mean)),
        ValueError,
        "the model's output is (); logits of shape (2, K) are needed",
    ),
    Mistake(
        "a segmentation network",
        lambda: loss(model=Returning(lambda z: z[:, :, None, None].expand(-1, -1, 8, 8))),
        ValueError,
        "the model's output is (2, 10, 8, 8); logits of shape (2, K) are needed",
    ),
    Mistake(
        "a model that returns a dictionary without logits",
        lambda: loss(model=Returning(lambda z: {"scores": z})),
        ValueError,
        "the model's output is dict; logits of shape (2, K) are needed",
    ),
    Mistake(
        "a margin of a model with one class",
        lambda: loss(y=0 * Y, model=Returning(lambda z: z[:, :1]), options={"attack": "mma"}),
        ValueError,
        "the model has 1 class; a margin is between at least 2",
    ),
    # PART's arguments
    Mistake(
        "a radius in 255ths",
        lambda: PART(eps=8),
        ValueError,
        "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
    ),
    Mistake(
        "a step in 255ths",
        lambda: PART(alpha=2),
        ValueError,
        "alpha=2 is larger than the range of the images, 1; did you mean 2/255?",
    ),
    Mistake("a radius as text", lambda: PART(eps="8/255"), TypeError, "eps='8/255' is a str; a number is needed"),
    Mistake(
        "a tensor of radii for the radius",
        lambda: PART(eps=torch.full((8, 8), 0.1)),
        TypeError,
        "eps=<Tensor> is a Tensor; a number is needed",
    ),
    Mistake(
        "the two radii the wrong way round",
        lambda: PART(eps=0.1, eps_low=0.2),
        ValueError,
        "eps_low=0.2 is larger than eps=0.1; it must be <= eps",
    ),
    Mistake("a negative radius", lambda: PART(eps=-0.1), ValueError, "eps=-0.1 is not allowed; it must be >= 0"),
    Mistake("no step", lambda: PART(alpha=0), ValueError, "alpha=0 is not allowed; it must be > 0"),
    Mistake("no steps", lambda: PART(steps=0), ValueError, "steps=0 is not allowed; it must be >= 1"),
    Mistake("steps as a float", lambda: PART(steps=10.0), TypeError, "steps=10.0 is a float; an integer is needed"),
    Mistake(
        "an objective in capitals",
        lambda: PART("TRADES"),
        ValueError,
        "objective='TRADES' is not known; choose from ['at', 'trades', 'mart'] or pass an Objective",
    ),
    Mistake(
        "an objective's class",
        lambda: PART(TRADES),
        TypeError,
        "objective=<class 'part_plugin.objectives.TRADES'> is a type; a name or an Objective instance is needed",
    ),
    Mistake(
        "the model for the objective",
        lambda: PART(NET),
        TypeError,
        "objective=<SmallNet> is a SmallNet; a name or an Objective instance is needed",
    ),
    Mistake(
        "beta for an objective of one term",
        lambda: PART("at", beta=3),
        ValueError,
        "beta=3 does not go with objective='at'; it weighs the second term of the others",
    ),
    Mistake(
        "beta beside an objective that has one",
        lambda: PART(TRADES(3.0), beta=6.0),
        ValueError,
        "beta=6.0 does not go with objective=TRADES(beta=3.0); give it to the objective",
    ),
    Mistake("a negative beta", lambda: PART("trades", beta=-1), ValueError, "beta=-1 is not allowed; it must be >= 0"),
    Mistake(
        "an attack that PART does not know",
        lambda: PART(attack="fgsm"),
        ValueError,
        "attack='fgsm' is not known; choose from 'pgd', 'mma'",
    ),
    Mistake(
        "a clip range that is one number",
        lambda: PART(clip=1.0),
        TypeError,
        "clip=1.0 is not a pair; (smallest, largest) pixel value is needed, e.g. (0, 1)",
    ),
    Mistake(
        "a clip range the wrong way round",
        lambda: PART(clip=(1, 0)),
        ValueError,
        "clip=(1, 0) is not allowed; two finite bounds are needed, the first below the second",
    ),
    Mistake(
        "bounds of each channel that do not fit images",
        lambda: PART(clip=([0, 0, 0], [1, 1, 1])),
        ValueError,
        "clip has bounds of shape (3,) and (3,); numbers or tensors that fit images, (C, 1, 1), are needed",
    ),
    Mistake(
        "an option that there is not",
        lambda: PART(treshold=2),
        TypeError,
        "treshold=2 is no argument here and no option of a budget, which are cam, target_layers, reshape_transform, "
        "rule, target",
    ),
    Mistake(
        "a fast option of another library",
        lambda: PART(fast="fp16"),
        ValueError,
        "fast holds 'fp16'; choose from 'fold', 'compile', 'bfloat16', 'float16'",
    ),
    Mistake("a negative seed", lambda: PART(seed=-1), ValueError, "seed=-1 is not allowed; it must be >= 0"),
    # epochs
    Mistake(
        "set_epoch forgotten",
        lambda: PART().loss(NET, X, Y),
        RuntimeError,
        "burn_in=20 and mask_every=1 count epochs: call set_epoch(epoch) at the start of each, or pass burn_in=0 and "
        "mask_every=1",
    ),
    Mistake(
        "an epoch that is no integer",
        lambda: PART().set_epoch(1.5),
        TypeError,
        "epoch=1.5 is a float; an integer is needed",
    ),
    Mistake(
        "a share of the epochs for the burn-in",
        lambda: PART(burn_in=0.25),
        TypeError,
        "burn_in=0.25 is a float; an integer is needed",
    ),
    Mistake(
        "masks that are remembered without the samples' numbers",
        lambda: loss(options={"mask_every": 2}),
        ValueError,
        "mask_every=2 remembers masks per sample; pass index of shape (2,)",
    ),
    Mistake(
        "masks that are remembered of a budget without any",
        lambda: PART(mask_every=2, budget=FixedBudget(0.1)),
        ValueError,
        "mask_every=2 needs a PixelBudget; FixedBudget(eps=0.1) has no masks to renew",
    ),
    Mistake(
        "masks as integers",
        lambda: loss(important=torch.ones(2, 1, 8, 8).long()),
        ValueError,
        "important is torch.int64 (2, 1, 8, 8); (2, 1, 8, 8), bool or in [0, 1], is needed",
    ),
    Mistake(
        "masks in pixel values",
        lambda: loss(important=255 * torch.ones(2, 1, 8, 8)),
        ValueError,
        "important has weights from 255 to 255; they must be in [0, 1]",
    ),
    Mistake(
        "masks beside radii",
        lambda: loss(options={"budget": FixedBudget(0.1)}, important=torch.ones(2, 1, 8, 8)),
        ValueError,
        "important does not go with FixedBudget(eps=0.1), which has a radius for every pixel already",
    ),
    # radii that change
    Mistake(
        "a function of the epoch, and no epoch",
        lambda: PART(eps=warm_up, burn_in=0).loss(NET, X, Y),
        RuntimeError,
        "burn_in=0 and mask_every=1, eps=<warm_up> count epochs: call set_epoch(epoch) at the start of each, or pass "
        "burn_in=0 and mask_every=1 and numbers for radii",
    ),
    Mistake(
        "an eps that falls below eps_low",
        lambda: loss(options={"eps": warm_up, "eps_low": 0.1}),
        ValueError,
        "eps_low=0.1 is larger than eps=0.05; it must be <= eps",
    ),
    Mistake(
        "a function of the epoch beside a budget",
        lambda: PART(eps=warm_up, budget=FixedBudget(0.1)),
        ValueError,
        "eps=<warm_up> does not go with budget=FixedBudget(eps=0.1), which has its own",
    ),
    # budgets and rules
    Mistake(
        "a number for the budget",
        lambda: PART(budget=0.1),
        TypeError,
        "budget=0.1 is a float; a Budget or an object with eps and a call (model, images, labels) -> radii is needed "
        "(for one radius everywhere: FixedBudget)",
    ),
    Mistake(
        "a radius beside a budget",
        lambda: PART(budget=FixedBudget(0.1), eps_low=0.05),
        ValueError,
        "eps_low=0.05 does not go with budget=FixedBudget(eps=0.1), which has its own",
    ),
    Mistake(
        "a budget that goes beyond its eps",
        lambda: loss(options={"budget": Large()}),
        ValueError,
        "budget returned radii from 0.5 to 0.5; they must be in [0, eps=0.1]",
    ),
    Mistake(
        "radii of another size than the images",
        lambda: loss(options={"budget": FixedBudget(torch.full((7, 7), 0.1))}),
        ValueError,
        "radii of shape (7, 7) do not fit images of shape (2, 1, 8, 8)",
    ),
    Mistake(
        "negative radii",
        lambda: FixedBudget(torch.tensor([-0.1, 0.1])),
        ValueError,
        "eps=-0.1 to 0.1 is not allowed; every radius must be finite and >= 0",
    ),
    Mistake(
        "a quadrant that there is not",
        lambda: FixedBudget.quadrant("upper-left", 0.1, 0.05, (8, 8)),
        ValueError,
        "name='upper-left' is not known; choose from 'top-left', 'top-right', 'bottom-left', 'bottom-right'",
    ),
    Mistake(
        "a threshold for the rule",
        lambda: PixelBudget(rule=1.0),
        TypeError,
        "rule=1.0 is a float; a function of maps is needed, such as Threshold(1.0)",
    ),
    Mistake(
        "a rule's class",
        lambda: PixelBudget(rule=Threshold),
        TypeError,
        "rule=<class 'part_plugin.rules.Threshold'> is a type; a function of maps is needed, such as Threshold(1.0)",
    ),
    Mistake(
        "a rule with weights above 1",
        lambda: PixelBudget(rule=wide)(NET, X),
        ValueError,
        "rule=<wide> returned weights from 2 to 2; they must be in [0, 1]",
    ),
    Mistake(
        "a rule that changes the size",
        lambda: PixelBudget(rule=narrow)(NET, X),
        ValueError,
        "rule=<narrow> returned (2, 1, 7, 8); weights of shape (2, 1, 8, 8) are needed",
    ),
    Mistake("a share in percent", lambda: TopShare(20), ValueError, "share=20 is not allowed; it must be > 0 and <= 1"),
    Mistake(
        "the true class without labels",
        lambda: PixelBudget(target="true")(NET, X),
        ValueError,
        "labels=None does not go with target='true'; pass labels or target='predicted'",
    ),
    Mistake(
        "a target that there is not",
        lambda: PixelBudget(target="label"),
        ValueError,
        "target='label' is not known; choose from 'predicted', 'true'",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    mistake.check()
