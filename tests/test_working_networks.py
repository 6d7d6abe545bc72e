"""Networks in their working clothes: compiled, checkpointed, averaged, sharded, scripted."""

import copy
import re
from functools import partial

import pytest
import torch
import torch.utils.checkpoint as checkpointing
import torchattacks
import torchvision
from conftest import assert_untouched, snapshot
from timm.models.vision_transformer import VisionTransformer
from timm.utils import ModelEmaV3
from torch import nn
from torch._dynamo import eval_frame
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.export import Dim
from torch.optim.swa_utils import AveragedModel

from part_plugin import PART, FixedBudget, PixelAttack, PixelBudget, PixelPGD, class_activation_map
from part_plugin.network.isolation import isolated
from part_plugin.network.uncompiled import uncompiled

COMPILED = {"backend": "eager"}  # which modules run is what is asked here
SETTINGS = {"eps": 0.1, "eps_low": 0.05, "alpha": 0.05, "steps": 2}
LAYER = {"cnn": "features", "vit": "blocks.2.norm1"}


@pytest.fixture(params=["cnn", "vit"])
def plain(request, digits_net):
    """A network, and the name of the layer that is mapped of it."""
    torch.manual_seed(0)
    vit = VisionTransformer(8, 2, 1, 10, embed_dim=32, depth=3, num_heads=2).eval()
    return (digits_net if request.param == "cnn" else vit), LAYER[request.param]


def everything(model, images, labels, layers=None):
    """Map, radii, adversarial examples, and the loss of a training step, its gradients and the weights after it."""
    layer = {"target_layers": layers}
    found = [
        class_activation_map(model, images, **layer),
        PixelBudget(0.1, 0.05, **layer)(model, images),
        PixelPGD(model, random_start=False, **SETTINGS, **layer)(images, labels),
    ]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(1)  # dropout
    loss = PART("trades", burn_in=0, seed=0, **SETTINGS, **layer).loss(model.train(), images, labels)
    loss.backward()
    optimizer.step()
    return [*found, loss.detach(), *(p.grad for p in model.parameters()), *(p.detach() for p in model.parameters())]


def assert_alike(model, network, batch, layers=None, name=None):
    """Assert that a model gives bit for bit what the network in it gives alone."""
    expected = everything(copy.deepcopy(network), *batch, name)
    for ours, theirs in zip(everything(model, *batch, layers), expected, strict=True):
        assert torch.equal(ours, theirs)


class Normalize(nn.Module):
    def forward(self, images):
        return (images - 0.5) / 0.25


def compiled_in_place(network):
    network.compile(**COMPILED)
    return network


def compiled_parts(network):
    for name, module in list(network.named_children()):
        setattr(network, name, torch.compile(module, **COMPILED))
    return network


@pytest.mark.parametrize(
    "wrap",
    [
        compiled_in_place,
        compiled_parts,
        lambda network: torch.compile(network, **COMPILED),
        lambda network: nn.DataParallel(torch.compile(network, **COMPILED)),
    ],
    ids=["in place", "parts", "whole", "parallel"],
)
def test_what_is_compiled_gives_what_it_gives_as_it_was(plain, batch, wrap):
    torch.compiler.reset()
    network, layer = plain
    model = wrap(copy.deepcopy(network))
    maps = class_activation_map(model, batch[0], target_layers=layer)
    assert torch.equal(maps, class_activation_map(network, batch[0], target_layers=layer))
    assert_alike(model, network, batch)


def test_a_compiled_part_of_a_sequence(plain, batch):
    torch.compiler.reset()
    network, layer = plain
    sequence = nn.Sequential(Normalize(), network)
    raw = copy.deepcopy(network)
    model = nn.Sequential(Normalize(), torch.compile(raw, **COMPILED))
    expected = class_activation_map(sequence, batch[0], target_layers=f"1.{layer}")
    for layers in (f"1.{layer}", f"1._orig_mod.{layer}", raw.get_submodule(layer)):
        assert torch.equal(class_activation_map(model, batch[0], target_layers=layers), expected)
    assert_alike(model, sequence, batch)


def test_the_attack_runs_what_was_compiled(digits_net, batch):
    """The map looks into the layers as they were, the attack, which is most of the work, runs compiled."""
    torch.compiler.reset()
    graphs = []
    model = nn.Sequential(
        Normalize(), torch.compile(digits_net, backend=lambda graph, inputs: graphs.append(1) or graph)
    )
    before = snapshot(model)
    class_activation_map(model, batch[0])
    assert not graphs
    PART(burn_in=0, **SETTINGS).perturb(model, *batch)
    assert graphs
    assert_untouched(model, before)
    with isolated(model, batch[0]) as attacked:
        assert attacked is model
    with isolated(model, batch[0], compiled=False) as looked_into:
        assert type(looked_into[1]) is type(digits_net)


def test_a_forward_pass_that_is_compiled_by_itself(plain, batch):
    torch.compiler.reset()
    network, layer = plain
    model = copy.deepcopy(network)
    model.forward = torch.compile(model.forward, **COMPILED)
    assert_alike(model, network, batch, layer, layer)
    with uncompiled():
        with uncompiled():
            assert eval_frame._stance.stance == "force_eager"
        assert eval_frame._stance.stance == "force_eager"
    assert eval_frame._stance.stance == "default"


class Checkpointed(nn.Module):
    """A network all of whose children but the last are inside a checkpoint."""

    def __init__(self, network, use_reentrant):
        super().__init__()
        self.network, self.use_reentrant = network, use_reentrant

    def forward(self, images):
        run = self.network.forward_features if isinstance(self.network, VisionTransformer) else self.network.features
        features = checkpointing.checkpoint(run, images, use_reentrant=self.use_reentrant)
        if isinstance(self.network, VisionTransformer):
            return self.network.forward_head(features)
        return self.network.head(self.network.dropout(self.network.pool(features)))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_layers_inside_a_checkpoint(plain, batch, use_reentrant):
    network, layer = plain
    inner = "features.3" if layer == "features" else "blocks.1"
    for layers, name in ((None, layer), (f"network.{inner}", inner)):
        model = Checkpointed(copy.deepcopy(network), use_reentrant).eval()
        before = snapshot(model)
        maps = class_activation_map(model, batch[0], target_layers=layers)
        assert_untouched(model, before)
        assert torch.equal(maps, class_activation_map(network, batch[0], target_layers=name))
        adv = PART(burn_in=0, seed=0, **SETTINGS, target_layers=layers).perturb(model, *batch)
        assert torch.equal(adv, PART(burn_in=0, seed=0, **SETTINGS, target_layers=name).perturb(network, *batch))
    assert "apply" not in vars(checkpointing.CheckpointFunction)


def test_checkpoints_of_timm(batch):
    torch.manual_seed(0)
    network = VisionTransformer(8, 2, 1, 10, embed_dim=32, depth=3, num_heads=2).eval()
    model = copy.deepcopy(network)
    model.set_grad_checkpointing(True)
    assert_alike(model, network, batch)


@pytest.mark.parametrize("kind", [CheckpointImpl.REENTRANT, CheckpointImpl.NO_REENTRANT])
def test_modules_wrapped_in_checkpoints(digits_net, batch, kind):
    model = copy.deepcopy(digits_net)
    wrapper = partial(checkpoint_wrapper, checkpoint_impl=kind)
    apply_activation_checkpointing(
        model, checkpoint_wrapper_fn=wrapper, check_fn=lambda module: isinstance(module, nn.Sequential)
    )
    for layers in (None, "features", "features.3"):
        ours, theirs = (class_activation_map(net, batch[0], target_layers=layers) for net in (model, digits_net))
        assert torch.equal(ours, theirs)
    adv = PART(burn_in=0, seed=0, **SETTINGS).perturb(model, *batch)
    assert torch.equal(adv, PART(burn_in=0, seed=0, **SETTINGS).perturb(digits_net, *batch))


@pytest.mark.parametrize("average", [AveragedModel, ModelEmaV3])
def test_averages_of_a_network(digits_net, batch, average):
    expected = class_activation_map(digits_net, batch[0], target_layers="features.3")
    for layers in ("features.3", "module.features.3"):
        assert torch.equal(class_activation_map(average(digits_net), batch[0], target_layers=layers), expected)
    assert_alike(average(digits_net), digits_net, batch)


def test_a_module_of_another_network_and_what_to_pass(digits_net, batch):
    model = AveragedModel(digits_net)
    message = (
        "target_layers holds a Sequential that is not part of the model; one like it is 'module.features': pass the"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)} name$"):
        class_activation_map(model, batch[0], target_layers=digits_net.features)
    message = "one like it is 'module.features.2' or 'module.features.5': pass the name"
    with pytest.raises(ValueError, match=re.escape(message)):
        class_activation_map(model, batch[0], target_layers=digits_net.features[2])
    with pytest.raises(ValueError, match=r"target_layers holds a Conv2d that is not part of the model$"):
        class_activation_map(model, batch[0], target_layers=nn.Conv2d(7, 7, 7))


@pytest.fixture
def mesh(tmp_path):
    """One process that is alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_sharded_networks(plain, batch, mesh):
    """FSDP2, whose hooks bring the weights together: the network itself is looked into and attacked."""
    network, layer = plain

    def sharded():
        model = copy.deepcopy(network)
        for part in [model.features] if layer == "features" else model.blocks:
            fully_shard(part, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    for layers in (None, layer):
        expected = everything(copy.deepcopy(network), *batch, layers)
        for ours, theirs in zip(everything(sharded(), *batch, layers), expected, strict=True):
            assert torch.equal(ours.to_local() if isinstance(ours, DTensor) else ours, theirs)


@pytest.mark.parametrize("attack", ["pgd", "mma"])
def test_sharded_networks_are_trained_after_an_attack(digits_net, batch, mesh, attack):
    """What it runs last, a pass without gradients for "mma", leaves no weight behind that asks for none."""
    model = fully_shard(copy.deepcopy(digits_net), mesh=mesh)
    for net in (model, digits_net):
        PART(burn_in=0, seed=0, attack=attack, **SETTINGS).loss(net, *batch).backward()
    for ours, theirs in zip(model.parameters(), digits_net.parameters(), strict=True):
        assert torch.equal(ours.grad.to_local(), theirs.grad)


def test_sharded_weights_are_not_folded(digits_net, batch, mesh):
    message = "fast='fold' does not go with weights that fully_shard has spread over ranks; leave it out"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PART(burn_in=0, fast=("bfloat16", "fold")).loss(fully_shard(digits_net, mesh=mesh), *batch)


SEQUENCE = (lambda net, x: nn.Sequential(Normalize(), torch.jit.script(net)), "1.features")
CLOSED = {
    "scripted": (lambda net, x: torch.jit.script(net), "features"),
    "traced": (lambda net, x: torch.jit.trace(net, x), "features"),
    "frozen": (lambda net, x: torch.jit.freeze(torch.jit.script(net)), None),
    "scripted inside": SEQUENCE,
    "exported": (lambda net, x: torch.export.export(net, (x,), dynamic_shapes=({0: Dim("batch")},)).module(), None),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_networks_that_cannot_be_looked_into(digits_net, batch, kind):
    """A map by layer is refused in a sentence; a fixed budget, and masks of one's own, serve every attack."""
    make, layer = CLOSED[kind]
    model = make(copy.deepcopy(digits_net), batch[0])
    network = nn.Sequential(Normalize(), digits_net) if kind == "scripted inside" else digits_net
    for layers in (None, layer):
        with pytest.raises(
            ValueError, match=r"^the model is scripted, traced or exported, and a map looks into its lay"
        ):
            class_activation_map(model, batch[0], target_layers=layers)
    fixed = {"budget": FixedBudget.quadrant("top-left", 0.1, 0.05, size=(8, 8))}
    important = batch[0] > 0.5
    for attack in (
        lambda net: PixelPGD(net, alpha=0.05, steps=2, random_start=False, **fixed)(*batch),
        lambda net: PixelAttack(torchattacks.MIFGSM(net, 0.1, steps=2), **fixed)(*batch),
        lambda net: PART(burn_in=0, seed=0, alpha=0.05, steps=2, **fixed).perturb(net, *batch),
        lambda net: PART(burn_in=0, seed=0, **SETTINGS).perturb(net, *batch, important=important),
    ):
        assert torch.equal(attack(model), attack(network))


def test_an_export_for_one_shape(digits_net, batch):
    model = torch.export.export(digits_net, (batch[0],)).module()
    with pytest.raises(
        ValueError, match=r"^images have shape \(16, 1, 8, 8\), and the model was exported for one shape"
    ):
        PART(burn_in=0, **SETTINGS).perturb(model, *batch)


def test_a_network_traced_by_fx_is_looked_into(digits_net, batch):
    assert_alike(torch.fx.symbolic_trace(copy.deepcopy(digits_net)), digits_net, batch)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("options", [{}, {"budget": FixedBudget(0.1)}], ids=["map", "fixed"])
def test_quantised_networks_have_no_gradient(batch, options):
    network = VisionTransformer(8, 2, 1, 10, embed_dim=32, depth=1, num_heads=2).eval()
    model = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(
        ValueError, match=r"carries no gradient to the images: .* by no_grad, detach or quantised layers$"
    ):
        PixelPGD(model, 0.1, 0.05, 2, **options)(*batch)


def test_auxiliary_heads():
    """GoogLeNet's two, which are there in training mode alone, change neither layer nor map."""
    torch.manual_seed(0)
    make = partial(torchvision.models.googlenet, num_classes=10, init_weights=False, transform_input=False)
    model, plain = make(aux_logits=True), make(aux_logits=False)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("aux")})
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([1, 2])
    for training in (False, True):
        maps = [class_activation_map(net.train(training), images, cam="layercam") for net in (model, plain)]
        assert torch.equal(*maps)
        assert maps[0].amax((1, 2, 3)).all()
    PART(burn_in=0, **SETTINGS).loss(model.train(), images, labels).backward()
    assert model.conv1.conv.weight.grad.any()


class Joined(nn.Module):
    """Networks side by side, whose mean logits count; the last may be run for nothing."""

    def __init__(self, *networks, counted):
        super().__init__()
        self.networks, self.counted = nn.ModuleList(networks), counted

    def forward(self, images):
        logits = [network(images) for network in self.networks]
        return sum(logits[: self.counted]) / self.counted


def test_an_ensemble_is_told_that_one_member_is_mapped(digits_net, robust_net, batch, caplog):
    model = Joined(digits_net, robust_net, counted=2)
    maps = class_activation_map(model, batch[0])
    assert [record.getMessage() for record in caplog.records] == [
        "target_layers=None: no layer of Joined has all that decides; 'networks.1.features' is mapped, a part of it: "
        "pass target_layers, as one for each member of an ensemble, whose maps are averaged"
    ]
    assert torch.equal(maps, class_activation_map(model, batch[0], target_layers="networks.1.features"))


def test_a_network_run_for_nothing_is_not_mapped(digits_net, robust_net, batch, caplog):
    model = Joined(digits_net, robust_net, counted=1)
    assert torch.equal(class_activation_map(model, batch[0]), class_activation_map(digits_net, batch[0]))
    assert not caplog.records


class Reused(nn.Module):
    """A block that is called three times, each time beside what it took."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(1, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        features = self.stem(images)
        for _ in range(3):
            features = features + self.block(features).relu()
        return self.head(features.mean((2, 3)))


def test_a_layer_that_lies_early_is_told_of(batch, caplog):
    torch.manual_seed(0)
    model = Reused().eval()
    assert torch.equal(
        class_activation_map(model, batch[0]), class_activation_map(model, batch[0], target_layers="stem")
    )
    assert [record.getMessage() for record in caplog.records] == [
        "target_layers=None: the last layer in which every position has a say, 'stem', is module 1 of 6, so early that "
        "target_layers of your own may be better"
    ]
