"""What goes to another process: there and back again within this one."""

import subprocess
import sys
import threading

import pytest
import torch
from conftest import assert_untouched, snapshot
from evaluation.conftest import narrow
from evaluation.travellers import Chatty
from torch import nn
from torch.nn.utils import parametrizations

from part_plugin.adapters.robustbench import build_model
from part_plugin.evaluation.travel import StaysHere, packed, packed_network, unpacked

SMALL = {"channel_configs": [8, 8, 16, 32], "depth_configs": [1, 1, 1]}


def closure(net):
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

    return Local()


def hooked(net):
    net.register_forward_hook(lambda module, inputs, output: output + 1)
    return net


KINDS = {
    "plain": lambda net: net,
    "a class within a function": closure,
    "a lambda as a hook": hooked,
    "scripted": torch.jit.script,
    "partly scripted": lambda net: nn.Sequential(torch.jit.script(net)),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "printing": Chatty,
}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_many_kinds_travel(narrow_net, held_out, kind):
    net = KINDS[kind](narrow_net)
    back = unpacked(packed(net))
    assert back is not net
    assert torch.equal(back(held_out[0]), net(held_out[0]))
    assert [value.stride() for value in back.state_dict().values()] == [v.stride() for v in net.state_dict().values()]
    assert [value.data_ptr() for value in back.parameters()] != [value.data_ptr() for value in net.parameters()]


def test_a_network_that_is_there_already_is_named_alone(narrow_net):
    data = packed([narrow_net, narrow_net[0], "more"], narrow_net)
    other = nn.Flatten()
    back = unpacked(data, other)
    assert back[0] is other
    assert torch.equal(back[1].weight, narrow_net[0].weight)
    assert len(data) < len(packed(narrow_net))


def test_weights_that_are_computed_travel_as_what_they_are(narrow_net, held_out):
    parametrizations.weight_norm(narrow_net[0])
    parametrizations.spectral_norm(narrow_net[3])
    narrow_net.train()  # in which access to a weight changes what it is computed from
    before = snapshot(narrow_net)
    back = unpacked(packed_network(narrow_net))
    assert_untouched(narrow_net, before)
    narrow_net.eval()
    assert torch.equal(back(held_out[0]), narrow_net(held_out[0]))
    assert sorted(back.state_dict()) == sorted(narrow().state_dict())


def test_a_network_that_cannot_be_copied_stays(narrow_net):
    parametrizations.weight_norm(narrow_net[0])
    narrow_net[1].lock = threading.Lock()
    with pytest.raises(StaysHere, match=r"^TypeError: cannot pickle '_thread.lock' object$"):
        packed_network(narrow_net)


def test_a_network_of_robustbench_is_made_where_nothing_was_imported(tmp_path):
    (tmp_path / "packet").write_bytes(packed(build_model("robust_wide_resnet.RobustWideResNet", SMALL)))
    program = "from part_plugin.evaluation.travel import unpacked; print(unpacked(open('packet', 'rb').read()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("RobustWideResNet("), done.stderr


def test_what_cannot_travel_says_why(narrow_net, monkeypatch):
    with pytest.raises(StaysHere, match=r"^TypeError: cannot pickle '_thread.lock' object$"):
        packed([threading.Lock()])
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    local = r"closure.<locals>.Local.*; pip install cloudpickle, or define it in a module of its own$"
    with pytest.raises(StaysHere, match=local):
        packed(closure(narrow_net))
    monkeypatch.setattr(Chatty, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Chatty", Chatty, raising=False)
    with pytest.raises(
        StaysHere, match=r"^it is defined in __main__; pip install cloudpickle, or define it in a module"
    ):
        packed(Chatty(narrow_net))
