"""Maps: the method, the layer, one's own."""

import pytorch_grad_cam
import torch
from captum.attr import Saliency
from conftest import SmallNet
from mistakes.mistake import Mistake, each
from torch import nn

from part_plugin import PixelBudget, class_activation_map


class Net(nn.Module):
    """A network with one layer of every kind that gives no map."""

    def __init__(self):
        super().__init__()
        self.features, self.pool, self.head = nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)
        self.pair, self.idle, self.spare, self.shared = Pair(), nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3), nn.ReLU()

    def forward(self, x):
        self.idle(x)
        return self.head(self.pool(self.shared(self.shared(self.features(self.pair(x)[0])))).flatten(1))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Crops(nn.Module):
    """A network that looks at an image and at its mirror image."""

    def __init__(self):
        super().__init__()
        self.crops = nn.Conv2d(1, 10, 3)

    def forward(self, x):
        return self.crops(torch.cat([x, x.flip(3)])).mean((2, 3)).unflatten(0, (2, -1)).mean(0)


class Tokens(nn.Module):
    """A network of tokens, as transformers are."""

    def __init__(self, tokens=4):
        super().__init__()
        self.tokens = tokens
        self.embedding = nn.Conv2d(1, 20, 4, stride=4)
        self.block, self.head = nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x):
        tokens = self.embedding(x).flatten(2).transpose(1, 2)[:, : self.tokens]
        return self.head(self.block(tokens).mean(1))


with torch.random.fork_rng():
    torch.manual_seed(0)
    NET, X = Net().eval(), torch.rand(2, 1, 8, 8)
with torch.inference_mode():
    INFERENCE = SmallNet()


def gradient(model, images, classes):
    return torch.autograd.grad(model(images).sum(), images)[0]


def mapped(layer, cam="gradcam", model=NET):
    return class_activation_map(model, X, cam=cam, target_layers=layer)


def own(maps):
    return class_activation_map(NET, X, cam=lambda model, images, classes: maps)


MISTAKES = [
    # the method
    Mistake(
        "a type that is no CAM",
        lambda: PixelBudget(cam=int),
        ValueError,
        "cam=int is no CAM class; a name or a subclass of pytorch-grad-cam's BaseCAM is needed",
    ),
    Mistake(
        "a class of pytorch-grad-cam that is no CAM",
        lambda: PixelBudget(cam=pytorch_grad_cam.GuidedBackpropReLUModel),
        ValueError,
        "cam=GuidedBackpropReLUModel is no CAM class; a name or a subclass of pytorch-grad-cam's BaseCAM is needed",
    ),
    Mistake(
        "a CAM that was made already",
        lambda: PixelBudget(cam=pytorch_grad_cam.GradCAM(NET, [NET.features])),
        TypeError,
        "cam is a GradCAM that was made already; pass its class: cam=GradCAM",
    ),
    Mistake(
        "an object of Captum as it is",
        lambda: PixelBudget(cam=Saliency(NET)),
        TypeError,
        "cam=Saliency is of captum, which calls its own otherwise; a function (model, images, classes) -> maps "
        "around it is needed, see examples/map_sources.py",
    ),
    Mistake(
        "a gradient of images that require none",
        lambda: class_activation_map(NET, X, cam=gradient),
        ValueError,
        "cam=gradient takes a gradient of what requires none: call images.requires_grad_() in it first; a forward pass "
        "under no_grad or with detach gives none either",
    ),
    Mistake(
        "a number for the method",
        lambda: PixelBudget(cam=3),
        TypeError,
        "cam=3 is a int; a name, a pytorch-grad-cam class or a function (model, images, classes) -> maps is needed",
    ),
    Mistake(
        "the model for the method",
        lambda: PixelBudget(cam=NET),
        TypeError,
        "cam=Net is a Net; a name, a pytorch-grad-cam class or a function (model, images, classes) -> maps is needed",
    ),
    Mistake(
        "a function of images alone",
        lambda: PixelBudget(cam=torch.nn.functional.relu),
        TypeError,
        "cam=relu is a function; a name, a pytorch-grad-cam class or a function (model, images, classes) -> maps is "
        "needed",
    ),
    Mistake(
        "target layers of FullGrad",
        lambda: PixelBudget(cam="FullGrad", target_layers="features"),
        ValueError,
        "target_layers does not go with cam=FullGrad, which takes all layers with a bias",
    ),
    Mistake(
        "target layers beside a method of one's own",
        lambda: PixelBudget(cam=lambda model, images, classes: images, target_layers="features"),
        ValueError,
        "target_layers and reshape_transform do not go with a cam of your own, which needs none",
    ),
    # the layer
    Mistake(
        "a layer that there is not",
        lambda: mapped("features.9", model=SmallNet()),
        ValueError,
        "target_layers='features.9' is no module of the model; the nearest are ['features.5', 'features.4', "
        "'features.3', 'features.2', 'features.1']",
    ),
    Mistake(
        "a layer by its number",
        lambda: mapped(3),
        TypeError,
        "target_layers=3 is a int; modules or dotted names are needed",
    ),
    Mistake(
        "layers by their numbers",
        lambda: mapped([3, 4]),
        TypeError,
        "target_layers holds a int; modules or dotted names are needed",
    ),
    Mistake(
        "an empty list of layers",
        lambda: mapped([]),
        ValueError,
        "target_layers is empty; give at least one module or dotted name, or None",
    ),
    Mistake(
        "a layer of another model",
        lambda: mapped(SmallNet().features),
        ValueError,
        "target_layers holds a Sequential that is not part of the model",
    ),
    Mistake(
        "the layer after the pooling",
        lambda: mapped("pool"),
        ValueError,
        "target layer 'pool' gives (2, 8, 1, 1), in which nothing can be told from anything else; name a layer before "
        "the pooling",
    ),
    Mistake(
        "the layer after the pooling, for the library",
        lambda: mapped("pool", cam="GradCAM"),
        ValueError,
        "target layer 'pool' gives (2, 8, 1, 1), in which nothing can be told from anything else; name a layer before "
        "the pooling",
    ),
    Mistake(
        "the last linear layer",
        lambda: mapped("head"),
        ValueError,
        "target layer 'head' gives (2, 10); (N, C, h, w) is needed: pass reshape_transform",
    ),
    Mistake(
        "a layer that gives a pair",
        lambda: mapped("pair"),
        ValueError,
        "target layer 'pair' returns a tuple; a tensor is needed",
    ),
    Mistake(
        "a layer that gives a pair, for the library",
        lambda: mapped("pair", cam="EigenCAM"),
        ValueError,
        "target layer 'pair' returns a tuple; a tensor is needed",
    ),
    Mistake(
        "a layer that is not used",
        lambda: mapped("spare"),
        ValueError,
        "target layer 'spare' is not reached by the model's forward pass",
    ),
    Mistake(
        "a layer that is not used, for the library",
        lambda: mapped("spare", cam="GradCAM"),
        ValueError,
        "target layer 'spare' is not reached by the model's forward pass",
    ),
    Mistake(
        "a layer on which nothing depends",
        lambda: mapped(["features", "idle"]),
        ValueError,
        "the model's output does not depend on target layer 'idle'",
    ),
    Mistake(
        "a layer that is called twice, for the library",
        lambda: mapped("shared", cam="GradCAM"),
        ValueError,
        "target layer 'shared' is called 2 times in a pass, of which pytorch-grad-cam maps the first; 'gradcam', "
        "'xgradcam', 'layercam' map the last",
    ),
    Mistake(
        "a layer that sees several crops of an image",
        lambda: mapped("crops", model=Crops()),
        ValueError,
        "target layer 'crops' gives 4 rows for 2 images; one of each is needed",
    ),
    Mistake(
        "a model without spatial extent",
        lambda: mapped(None, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
        ValueError,
        "target_layers=None: Sequential has no module with an (N, C, h, w) output or tokens to map; pass "
        "target_layers (and reshape_transform for tokens)",
    ),
    Mistake(
        "a transformer without a target layer",
        lambda: mapped(None, model=Tokens()),
        ValueError,
        "target_layers=None: the last layer in which every position has a say, 'embedding', is module 1 of 4, too "
        "early to decide; pass target_layers (and reshape_transform for tokens)",
    ),
    Mistake(
        "tokens of no grid without a reshape_transform",
        lambda: mapped("block", model=Tokens(3)),
        ValueError,
        "target layer 'block' gives (2, 3, 20); (N, C, h, w) is needed: pass reshape_transform",
    ),
    # the call
    Mistake(
        "model and images the wrong way round",
        lambda: class_activation_map(X, NET),
        TypeError,
        "images are a Net; a floating-point tensor is needed (uint8 / 255 for pictures)",
    ),
    Mistake(
        "one class for all images",
        lambda: class_activation_map(NET, X, 3),
        ValueError,
        "labels have shape (); expected (2,), (2, 1) or (2, K)",
    ),
    Mistake(
        "a class that there is not",
        lambda: class_activation_map(NET, X, torch.tensor([1, 10])),
        ValueError,
        "labels contain class 10; allowed is 0 to 9",
    ),
    Mistake(
        "a class that there is not, for the library",
        lambda: class_activation_map(NET, X, torch.tensor([1, 10]), cam="GradCAM", target_layers="features"),
        ValueError,
        "labels contain class 10; allowed is 0 to 9",
    ),
    Mistake(
        "channels last",
        lambda: class_activation_map(SmallNet(3), torch.rand(2, 8, 8, 3)),
        ValueError,
        "images have shape (2, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)",
    ),
    Mistake(
        "weights made under inference_mode",
        lambda: class_activation_map(INFERENCE, X),
        RuntimeError,
        "the model's weights were created under inference_mode, so nothing can be differentiated: create or load the "
        "model outside it (Lightning: Trainer(inference_mode=False))",
    ),
    # maps of one's own
    Mistake(
        "a numpy array from a method of one's own",
        lambda: own(X.numpy()),
        ValueError,
        "cam returned ndarray; maps (N, h, w) or (N, C, h, w) of the 2 images are needed",
    ),
    Mistake(
        "one map for all images from a method of one's own",
        lambda: own(X[0, 0]),
        ValueError,
        "cam returned (8, 8); maps (N, h, w) or (N, C, h, w) of the 2 images are needed",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    mistake.check()
