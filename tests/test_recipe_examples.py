"""What goes beside PART: weight perturbation, averaged weights, Mixup. Each script runs and does what it says."""

import copy
import importlib.util
import re
from functools import partial

import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot
from test_examples import EXAMPLES, run
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from part_plugin import PART, PixelBudget

SETTINGS = {"eps": 0.1, "eps_low": 0.05, "alpha": 0.05, "steps": 2, "burn_in": 0, "cam": "layercam"}


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "networks"), [("awp_loop", 1), ("ema_loop", 2), ("mixup_loop", 1), ("art_own_trainers", 3)]
)
def test_example_runs(name, networks, tmp_path):
    script = EXAMPLES / f"{name}.py"
    assert len(script.read_text().splitlines()) < 80
    printed = run(script, cwd=tmp_path)
    natural = [float(found) for found in re.findall(r"natural accuracy (\d+\.\d)%", printed)]
    assert len(natural) == networks
    assert min(natural) > 80


def test_two_lines_away_from_arts_own_trainers(tmp_path):
    """With every changed line as it was, the script runs without part_plugin."""
    source = (EXAMPLES / "art_own_trainers.py").read_text()
    assert source.count("# was: ") == 2
    before = re.sub(r"^( *).*# was: ", r"\1", source, flags=re.M)
    assert "part_plugin" not in before
    (tmp_path / "before.py").write_text(before.replace("nb_epochs=4", "nb_epochs=1").replace("[:1400]", "[:200]"))
    assert run("before.py", cwd=tmp_path).count("natural accuracy") == 3


@pytest.mark.parametrize(("name", "lines"), [("awp_loop", 3), ("mixup_loop", 2)])
def test_a_few_lines_away_from_part_alone(name, lines, tmp_path):
    """Without the lines that are new, and with those that changed as they were, it is a plain loop of PART."""
    source = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert sum(line.endswith("# new") or "# was: " in line for line in source) == lines
    before = [re.sub(r"^(\s*).*# was: ", r"\1", line) for line in source if not line.endswith("# new")]
    used = [line for line in before[before.index("def main():") :] if "awp" in line or "mix" in line]
    assert not used
    (tmp_path / "before.py").write_text("\n".join(before).replace("EPOCHS = 5", "EPOCHS = 1"))
    assert "natural accuracy" in run("before.py", cwd=tmp_path)


# Adversarial weight perturbation


def plain_net():
    """Without dropout, so that two passes are alike; in double precision."""
    torch.manual_seed(0)
    net = SmallNet().double()
    net.dropout.p = 0
    return net


def adversarial_batch(objective, net, batch):
    x, y = batch[0].double(), batch[1]
    part = PART(objective, seed=0, **SETTINGS)
    return part, x, part.perturb(net, x, y), y


def by_a_proxy(net, loss, gamma):
    """The weights' move as Wu et al. make it: a step of gradient ascent of a second network, scaled to theirs."""
    proxy = copy.deepcopy(net).train()
    step = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    step.step()
    moves = {}
    for name, old in net.named_parameters():
        if old.dim() > 1:
            change = (proxy.get_parameter(name) - old).detach()
            moves[name] = gamma * old.detach().norm() / change.norm() * change
    return moves


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_a_step_with_perturbed_weights(batch, objective):
    """Two steps, momentum and weight decay included, are those that are written out by hand."""
    ours, theirs = plain_net(), plain_net()
    gamma = 0.02
    optimizers = [torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=0.01) for net in (ours, theirs)]
    awp = example("awp_loop").AWP(ours, PART(objective, **SETTINGS), gamma)
    for _ in range(2):
        part, x, adv, y = adversarial_batch(objective, ours, batch)
        before = copy.deepcopy(ours)
        awp.perturb(x, adv, y)
        optimizers[0].zero_grad()
        part.training_pass(ours.train(), x, adv, y).loss.backward()
        optimizers[0].step()
        awp.restore()

        def loss(net, x=x, adv=adv, y=y, part=part):
            natural = net(x) if objective == "trades" else None
            return part.objective.loss(net(adv), y, natural)

        moves = by_a_proxy(theirs, loss, gamma)
        assert len(moves) == 3
        for name, move in moves.items():
            theirs.get_parameter(name).data += move
        optimizers[1].zero_grad()
        loss(theirs.train()).backward()
        optimizers[1].step()
        for name, move in moves.items():
            theirs.get_parameter(name).data -= move
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert not torch.equal(ours.head.weight, before.head.weight)


def test_how_far_weights_are_moved_and_back(batch):
    net = plain_net()
    part, x, adv, y = adversarial_batch("at", net, batch)
    awp = example("awp_loop").AWP(net, part, gamma=0.02)
    before = snapshot(net)
    loss = cross_entropy(net.train()(adv), y).item()
    net.load_state_dict(before["state"])
    awp.perturb(x, adv, y)
    moved = net.state_dict()
    for name, value in before["state"].items():
        of_a_layer = name in ("features.0.weight", "features.3.weight", "head.weight")
        expected = 0.02 * value.norm() if of_a_layer else torch.zeros(())
        torch.testing.assert_close((moved[name] - value).double().norm(), expected.double(), msg=name)
    assert cross_entropy(net.train()(adv), y) > loss + 0.01
    net.load_state_dict(before["state"] | {name: p.detach() for name, p in net.named_parameters()})
    awp.restore()
    for name, value in before["state"].items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=1e-15, msg=name)
    assert all(p.grad is None for p in net.parameters())


def test_frozen_weights_stay_where_they_are(batch):
    net = plain_net()
    net.features.requires_grad_(False)
    part, x, adv, y = adversarial_batch("at", net, batch)
    before = copy.deepcopy(net.state_dict())
    example("awp_loop").AWP(net, part, gamma=0.02).perturb(x, adv, y)
    moved = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["head.weight"]


def test_a_perturbation_of_nothing_is_part_alone(batch):
    nets = plain_net(), plain_net()
    for net, gamma in zip(nets, (0.0, None), strict=True):
        part, x, adv, y = adversarial_batch("at", net, batch)
        awp = example("awp_loop").AWP(net, part, gamma or 0.0)
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        if gamma is not None:
            awp.perturb(x, adv, y)
        part.training_pass(net.train(), x, adv, y).loss.backward()
        optimizer.step()
        awp.restore()
    for one, other in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


# A moving average of the weights


@pytest.fixture
def average(digits_net, batch):
    """Of a network that was trained on for two steps, a running average of half and half, and that network."""
    average = AveragedModel(digits_net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimizer = torch.optim.SGD(digits_net.parameters(), 0.2)
    for _ in range(3):
        optimizer.zero_grad()
        PART(seed=0, **SETTINGS).loss(digits_net.train(), *batch).backward()
        optimizer.step()
        average.update_parameters(digits_net)
    optimizer.zero_grad()
    return average


def test_maps_of_the_averaged_network(digits_net, batch, average):
    maps_of = example("ema_loop").maps_of
    untouched = snapshot(digits_net), snapshot(average)
    radii = PixelBudget(0.1, 0.05, cam=maps_of(average), target="true")(digits_net, *batch)
    of_the_average = PixelBudget(0.1, 0.05, cam="layercam", target="true")(average.module, *batch)
    assert torch.equal(radii, of_the_average)
    assert not torch.equal(radii, PixelBudget(0.1, 0.05, cam="layercam", target="true")(digits_net, *batch))

    settings = SETTINGS | {"seed": 0, "target": "true"}
    adv = PART(**settings | {"cam": maps_of(average)}).perturb(digits_net, *batch)
    handed_over = PART(**settings).perturb(digits_net, *batch, important=of_the_average == 0.1)
    assert torch.equal(adv, handed_over)
    for net, before in zip((digits_net, average), untouched, strict=True):
        assert_untouched(net, before)


def test_the_averaged_network_is_attacked_like_any_other(digits_net, batch, average):
    adv = [PART(seed=0, **SETTINGS).perturb(net, *batch) for net in (average, average.module, digits_net)]
    assert torch.equal(adv[0], adv[1])
    assert not torch.equal(adv[0], adv[2])


def test_buffers_are_averaged_too(digits_net, batch):
    """A network that is averaged with nothing but the last one is that one, batch-norm statistics included."""
    average = AveragedModel(digits_net, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=True)
    digits_net.train()(batch[0])
    nn.init.normal_(digits_net.head.weight)
    average.update_parameters(digits_net)
    average.update_parameters(digits_net)
    of_last = PART(seed=0, **SETTINGS).perturb(digits_net, *batch)
    assert torch.equal(of_last, PART(seed=0, **SETTINGS).perturb(average, *batch))
    maps = partial(PixelBudget, 0.1, 0.05, target="true")
    budgets = maps(cam=example("ema_loop").maps_of(average)), maps(cam="layercam")
    assert torch.equal(*(budget(digits_net, *batch) for budget in budgets))
