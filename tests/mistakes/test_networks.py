"""Networks of other programs."""

import sys
from pathlib import Path

import pytest
import torch
from foreign import CLASSES, RESNET, VIT, lived, made_by_timm, made_by_transformers
from mistakes.mistake import Mistake, each
from torch import nn

from part_plugin import load_network, save_checkpoint
from part_plugin.adapters.robustbench import normalize_model
from part_plugin.commands import app

TIMM = {"architecture": "timm:resnet10t", "arguments": RESNET}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """What the mistakes are made with; linked to where they are made."""
    folder, network = tmp_path_factory.mktemp("files"), lived(made_by_timm)
    weights = network.state_dict()
    torch.save(weights, folder / "net.pt")
    torch.save({name: one for name, one in weights.items() if name != "fc.bias"}, folder / "less.pt")
    torch.save({"encoder" + name: one for name, one in weights.items()}, folder / "renamed.pt")
    torch.save(weights | {"fc2.weight": torch.ones(1), "fc2.bias": torch.ones(1)}, folder / "more.pt")
    torch.save(weights | {"conv1.0.weight": torch.ones(8, 1, 3, 3)}, folder / "grey.pt")
    torch.save(weights | {"fc.bias": torch.ones(CLASSES, dtype=torch.int64)}, folder / "whole.pt")
    torch.save({"model": weights, "ema": weights, "epoch": 3}, folder / "two.pt")
    both = {f"{one}.{name}": value for one in ("student", "teacher") for name, value in weights.items()}
    torch.save(both, folder / "pair.pt")
    torch.save(
        {"network." + name: one for name, one in weights.items()} | {"loss.w": torch.ones(1)}, folder / "with.pt"
    )
    torch.save({"epoch": 3, "optimizer": {"state": {}}}, folder / "empty.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save(network, folder / "whole_network.pt")
    torch.save(weights | {"module.fc.bias": weights["fc.bias"]}, folder / "twice.pt")
    (folder / "text.pt").write_text("hello")
    (folder / "plain").mkdir()
    save_checkpoint(folder / "ours.pt", network, "timm:resnet10t", CLASSES, RESNET)
    vit = lived(made_by_transformers)
    vit.save_pretrained(folder / "vit")
    vit.save_pretrained(folder / "light")
    (folder / "light" / "model.safetensors").unlink()
    vit.save_pretrained(folder / "torn")
    (folder / "torn" / "config.json").write_text("{")
    normalised = normalize_model(network, [0.5] * 3, [0.0] * 3)
    torch.save(normalised.state_dict(), folder / "by_zero.pt")
    return folder


@pytest.fixture(autouse=True)
def linked(folder, files):
    for path in files.iterdir():
        Path(path.name).symlink_to(path)


def evaluate(line):
    return app(["evaluate", *line.split()], standalone_mode=False)


def without(library, call):
    """Call as where a library is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, library, None)
        call()


def text(name):
    """Returns no network."""
    return name


def unusable(name):
    return f"checkpoint '{name}.pt' cannot be used: "


def unfit(name):
    return unusable(name) + "the weights do not fit architecture 'timm:resnet10t': "


def load(name, **options):
    return load_network(name, **(TIMM | options))


MISTAKES = [
    Mistake(
        "weights of another program without an architecture",
        lambda: load_network("net.pt"),
        ValueError,
        "checkpoint 'net.pt' is not one of part_plugin's; save_checkpoint writes one, other weights need architecture",
    ),
    Mistake(
        "a number of classes without an architecture",
        lambda: load_network("net.pt", num_classes=4),
        ValueError,
        "num_classes=4 does not go with 'net.pt', which needs architecture first",
    ),
    Mistake(
        "an architecture for a checkpoint of our own",
        lambda: load("ours.pt"),
        ValueError,
        "architecture='timm:resnet10t' does not go with 'ours.pt', which says what it holds",
    ),
    Mistake(
        "normalisation for a checkpoint of our own",
        lambda: load_network("ours.pt", mean=[0.5] * 3, std=[0.5] * 3),
        ValueError,
        "mean=[0.5, 0.5, 0.5] does not go with 'ours.pt', which says what it holds",
    ),
    Mistake(
        "a file that is not there",
        lambda: load("none.pt"),
        FileNotFoundError,
        "checkpoint 'none.pt' does not exist",
    ),
    Mistake(
        "an architecture that timm does not have",
        lambda: load_network("net.pt", "timm:resnet_10t"),
        ValueError,
        "architecture='timm:resnet_10t' is not known; the nearest that timm has is 'timm:resnet10t'",
    ),
    Mistake(
        "an architecture of torchvision that is no classifier",
        lambda: load_network("net.pt", "torchvision:fcn_resnet50"),
        ValueError,
        "architecture='torchvision:fcn_resnet50' is not known; the nearest that torchvision has is "
        "'torchvision:resnet50'",
    ),
    Mistake(
        "a class of transformers without logits",
        lambda: load_network("net.pt", "transformers:ViTForImageClassifier"),
        ValueError,
        "architecture='transformers:ViTForImageClassifier' is not known; the nearest that transformers has is "
        "'transformers:ViTForImageClassification'",
    ),
    Mistake(
        "an architecture of RobustBench that is not there",
        lambda: load_network("net.pt", "robustbench:resnet.ResNet19"),
        ValueError,
        "architecture='resnet.ResNet19' is not known; it must be one of the 48 of "
        "part_plugin.adapters.robustbench.ARCHITECTURES, e.g. 'resnet.ResNet18'",
    ),
    Mistake(
        "a name from the hub",
        lambda: load_network("net.pt", "timm:hf-hub:timm/resnet18.a1_in1k"),
        ValueError,
        "architecture='timm:hf-hub:timm/resnet18.a1_in1k' is not known; timm has none like it",
    ),
    Mistake(
        "timm is not installed",
        lambda: without("timm", lambda: load("net.pt")),
        ImportError,
        "architecture='timm:...' needs timm, which cannot be imported (import of timm halted; None in sys.modules): "
        "pip install timm",
    ),
    Mistake(
        "transformers is not installed",
        lambda: without("transformers", lambda: load_network("vit")),
        ImportError,
        "architecture='transformers:...' needs transformers, which cannot be imported (import of transformers halted; "
        "None in sys.modules): pip install transformers",
    ),
    Mistake(
        "a function that is not there",
        lambda: load_network("net.pt", "foreign:made_there"),
        ValueError,
        "architecture='foreign:made_there' is not there (module 'foreign' has no attribute 'made_there'); "
        "'package.module:function' is needed, or one of the libraries robustbench, timm, torchvision, transformers "
        "before the colon",
    ),
    Mistake(
        "a function with other arguments",
        lambda: load_network("net.pt", "foreign:made_here", arguments={"depth": 3}),
        ValueError,
        "arguments={'depth': 3} do not fit architecture 'foreign:made_here': got an "
        "unexpected keyword argument 'depth'",
    ),
    Mistake(
        "a function that returns no network",
        lambda: load_network("net.pt", "mistakes.test_networks:text", arguments={"name": "x"}),
        TypeError,
        "architecture='mistakes.test_networks:text' returned a str; a torch.nn.Module is needed",
    ),
    Mistake(
        "arguments that would read a file",
        lambda: load("net.pt", architecture="torchvision:resnet18", arguments={"weights": "DEFAULT"}),
        ValueError,
        "arguments={'weights': 'DEFAULT'} do not fit architecture 'torchvision:resnet18': 'weights' is not allowed; "
        "known are 'dropout', 'attention_dropout', 'stochastic_depth_prob', 'drop_rate', 'memory_efficient', "
        "'image_size', 'width_mult', 'width_per_group', 'groups', 'zero_init_residual', 'aux_logits', "
        "'transform_input', 'reduced_tail', 'dilated'",
    ),
    Mistake(
        "an argument that a network does not take",
        lambda: load("net.pt", arguments={"img_size": 32}),
        ValueError,
        unusable("net") + "arguments={'img_size': 32} do not fit architecture 'timm:resnet10t': "
        "ResNet got an unexpected keyword argument 'img_size'",
    ),
    Mistake(
        "another number of classes",
        lambda: load("net.pt", num_classes=10),
        ValueError,
        unusable("net") + "num_classes=10 does not fit the weights, whose 'fc.weight' has 4",
    ),
    Mistake(
        "no classes",
        lambda: load("net.pt", num_classes=0),
        ValueError,
        "num_classes=0 is not allowed; it must be >= 1",
    ),
    Mistake(
        "weights of another architecture",
        lambda: load_network("net.pt", "torchvision:resnet18", 4),
        ValueError,
        unusable("net") + "the weights do not fit architecture 'torchvision:resnet18': 'conv1.weight' "
        "and 52 more are missing; there are 'conv1.0.weight' and 33 others instead",
    ),
    Mistake(
        "weights that lack one",
        lambda: load("less.pt"),
        ValueError,
        unfit("less") + "'fc.bias' is missing",
    ),
    Mistake(
        "weights under names of one's own",
        lambda: load("renamed.pt", num_classes=4),
        ValueError,
        unfit("renamed") + "'conv1.0.weight' "
        "and 76 more are missing; there are 'encoderconv1.0.weight' and 91 others instead",
    ),
    Mistake(
        "weights that have more",
        lambda: load("more.pt"),
        ValueError,
        unfit("more") + "it has no 'fc2.weight' and 1 more",
    ),
    Mistake(
        "weights beside those of the network",
        lambda: load("with.pt"),
        ValueError,
        unfit("with") + "it has no 'loss.w'; key='network' takes only what is under it",
    ),
    Mistake(
        "weights of grey images",
        lambda: load("grey.pt"),
        ValueError,
        unfit("grey") + "'conv1.0.weight' is float32 (8, 1, 3, 3); float32 (6, 3, 3, 3) is needed",
    ),
    Mistake(
        "weights of whole numbers",
        lambda: load("whole.pt"),
        ValueError,
        unfit("whole") + "'fc.bias' is int64 (4,); float32 (4,) is needed",
    ),
    Mistake(
        "a file with averaged weights, too",
        lambda: load("two.pt"),
        ValueError,
        "checkpoint 'two.pt' holds weights under 'model' and 'ema'; key must name the ones that are meant",
    ),
    Mistake(
        "a key that the file does not have",
        lambda: load("two.pt", key="best"),
        ValueError,
        "checkpoint 'two.pt' holds weights under 'model' and 'ema', and no 'best'; key must name the ones that are "
        "meant",
    ),
    Mistake(
        "a student beside its teacher",
        lambda: load("pair.pt"),
        ValueError,
        unusable("pair") + "the weights hold several networks, under 'student' and 'teacher'; key must "
        "name the one that is meant",
    ),
    Mistake(
        "a prefix that no name has",
        lambda: load("pair.pt", key="model"),
        ValueError,
        unfit("pair") + "under key='model' there is no such network",
    ),
    Mistake(
        "weights with and without module.",
        lambda: load("twice.pt"),
        ValueError,
        unusable("twice") + "weights are there twice, with and without what DataParallel or torch.compile add to names",
    ),
    Mistake(
        "a file without weights",
        lambda: load("empty.pt"),
        ValueError,
        "checkpoint 'empty.pt' holds no state_dict; it has 'epoch', 'optimizer'",
    ),
    Mistake(
        "a file with a list",
        lambda: load("list.pt"),
        ValueError,
        "checkpoint 'list.pt' holds a list; a state_dict is needed, or a dict with one",
    ),
    Mistake(
        "a whole network, as torch.save(network) writes it",
        lambda: load("whole_network.pt"),
        ValueError,
        "checkpoint 'whole_network.pt' is damaged or holds more than plain data and tensors (it names "
        "timm.models.resnet.ResNet); of a network torch.save(network.state_dict(), path) writes them",
    ),
    Mistake(
        "a file of text",
        lambda: load("text.pt"),
        ValueError,
        "checkpoint 'text.pt' is damaged or holds more than plain data and tensors; of a network "
        "torch.save(network.state_dict(), path) writes them",
    ),
    Mistake(
        "a mean without a standard deviation",
        lambda: load("net.pt", mean=[0.5] * 3),
        ValueError,
        "mean and std go together; give both or neither",
    ),
    Mistake(
        "a standard deviation of 0",
        lambda: load("net.pt", mean=[0.5] * 3, std=[0, 1, 1]),
        ValueError,
        "std=[0, 1, 1] is not allowed; 3 finite numbers > 0 are needed, one per channel",
    ),
    Mistake(
        "a file whose standard deviation is 0",
        lambda: load("by_zero.pt"),
        ValueError,
        unusable("by_zero") + "std=[0.0, 0.0, 0.0] is not allowed; 3 finite numbers > 0 are needed, one per channel",
    ),
    Mistake(
        "a directory of something else",
        lambda: load_network("plain"),
        FileNotFoundError,
        "checkpoint 'plain' is a directory without config.json; a file is needed",
    ),
    Mistake(
        "a directory without weights",
        lambda: load_network("light"),
        FileNotFoundError,
        "checkpoint 'light' has no model.safetensors or pytorch_model.bin",
    ),
    Mistake(
        "a directory with a torn config.json",
        lambda: load_network("torn"),
        ValueError,
        "file 'torn/config.json' is damaged; a JSON object of at most 4194304 bytes is needed",
    ),
    Mistake(
        "another architecture for a directory",
        lambda: load_network("vit", "transformers:ViTForImageClassification", arguments=VIT),
        ValueError,
        "architecture='transformers:ViTForImageClassification' does not go with 'vit', which says what it holds",
    ),
    Mistake(
        "a model of RobustBench that was not downloaded",
        lambda: load_network("robustbench:Gowal2020Uncovering_28_10_extra"),
        FileNotFoundError,
        "'robustbench:Gowal2020Uncovering_28_10_extra' needs "
        "'models/cifar10/Linf/Gowal2020Uncovering_28_10_extra.pt', which does not exist; "
        "robustbench.utils.load_model('Gowal2020Uncovering_28_10_extra', dataset='cifar10', threat_model='Linf') "
        "downloads it, or model_dir says where it is",
    ),
    Mistake(
        "a model of RobustBench whose weights a library has",
        lambda: load_network("robustbench:imagenet/Linf/Standard_R50"),
        ValueError,
        "'robustbench:imagenet/Linf/Standard_R50' has no file of its own, as a library has its weights; name its "
        "architecture instead",
    ),
    Mistake(
        "a model that RobustBench does not have",
        lambda: load_network("robustbench:Wong2020"),
        ValueError,
        "'robustbench:Wong2020' is no model of RobustBench; the nearest that it has is 'Wong2020Fast'",
    ),
    Mistake(
        "evaluate a network of another program without its architecture",
        lambda: evaluate("net.pt --num-classes 4 --dataset digits"),
        ValueError,
        "--architecture is missing; without it nothing is known of the weights of another program",
    ),
    Mistake(
        "evaluate with a mean that is no numbers",
        lambda: evaluate("net.pt --architecture timm:resnet10t --mean a,b --std 1,1,1 --dataset digits"),
        ValueError,
        "--mean 'a,b' is not allowed; numbers with commas are needed, e.g. 0.5,0.5,0.5",
    ),
    Mistake(
        "evaluate with an argument without a value",
        lambda: evaluate("net.pt --architecture timm:resnet10t --argument channels --dataset digits"),
        ValueError,
        "--argument 'channels' is not allowed; KEY=VALUE is needed, e.g. --argument img_size=32",
    ),
    Mistake(
        "evaluate a network without a dataset",
        lambda: evaluate(
            "net.pt --architecture timm:resnet10t --argument channels=[8,8,16,16] --argument stem_width=8"
        ),
        ValueError,
        "--dataset is missing, and checkpoint 'net' does not say; choose from cifar10, svhn, tinyimagenet, digits, "
        "imagefolder",
    ),
    Mistake(
        "save a network under another architecture of timm",
        lambda: save_checkpoint("a.pt", nn.Linear(2, 2), "timm:resnet10t", 2, RESNET),
        ValueError,
        "the weights do not fit architecture 'timm:resnet10t': 'conv1.0.weight' is missing",
    ),
    Mistake(
        "save a network of one's own",
        lambda: save_checkpoint("a.pt", nn.Linear(2, 2), "torch.nn:Linear", 2),
        ValueError,
        "architecture='torch.nn:Linear' is not known; it must be one of the 48 of "
        "part_plugin.adapters.robustbench.ARCHITECTURES, e.g. 'resnet.ResNet18'",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    before = sorted(Path().rglob("*"))
    mistake.check()
    assert sorted(Path().rglob("*")) == before
