"""What an installation without the toolkits can do, and what nothing may cost."""

import gc
import importlib
import subprocess
import sys
import tracemalloc

import psutil
import pytest
import torch
import torchattacks

import part_plugin
from part_plugin import PART, PixelPGD, class_activation_map

TOOLKITS = (
    "torchattacks", "art", "pytorch_grad_cam", "robustbench", "pyautoattack", "autoattack", "pandas", "scipy",
    "sklearn", "matplotlib", "tqdm", "torchvision", "cv2",
)  # fmt: skip

BLOCKED = f"""
import sys
from importlib.machinery import PathFinder
class WithoutToolkits(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {TOOLKITS!r} else super().find_spec(name, path, target)
everything = list(sys.meta_path)
sys.meta_path[:] = [WithoutToolkits if finder is PathFinder else finder for finder in sys.meta_path]
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_trains_with_torch_and_numpy_alone():
    printed = run("""
import torch
from torch import nn
from part_plugin import *
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2))
x = 0.5 * torch.rand(64, 1, 8, 8)
y = (torch.arange(64) % 2)
x[y == 1] += 0.2
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for objective in ("at", "trades", "mart"):
    part = PART(objective, eps=0.05, eps_low=0.04, alpha=0.02, steps=3, burn_in=0)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = part.loss(model, x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    assert part.budget.images == 640
print(sorted(m for m in sys.modules if m.startswith("part_plugin.")))
""")
    assert "adapters" not in printed
    assert "evaluation" not in printed


@pytest.mark.parametrize("name", sorted(part_plugin._ADAPTERS))
def test_a_name_whose_toolkit_is_missing_says_what_to_install(name):
    _, toolkit, packages = part_plugin._ADAPTERS[name]
    printed = run(f"""
try:
    from part_plugin import {name}
except ImportError as error:
    print(error)
""")
    expected = f"part_plugin.{name} needs {toolkit}, which cannot be imported ("
    assert printed.startswith(expected), printed
    assert printed.strip().endswith(f"pip install {packages}")


def test_a_missing_grad_cam_matters_only_to_its_own_methods():
    printed = run("""
import torch
from torch import nn
from part_plugin import class_activation_map
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
for cam in ("layercam", "EigenCAM"):
    try:
        print(class_activation_map(model, torch.rand(2, 1, 8, 8), cam=cam).shape)
    except ImportError as error:
        print(error)
""")
    shape, message = printed.splitlines()
    assert shape == "torch.Size([2, 1, 8, 8])"
    assert message == (
        "a cam other than 'gradcam', 'xgradcam' and 'layercam' needs pytorch-grad-cam, which cannot be imported "
        "(No module named 'pytorch_grad_cam'): pip install grad-cam"
    )


def test_a_broken_toolkit_breaks_nothing_else(tmp_path):
    (tmp_path / "torchattacks").mkdir()
    (tmp_path / "torchattacks" / "__init__.py").write_text("raise RuntimeError('half an upgrade')")
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path[:] = everything
import part_plugin
part_plugin.PART, part_plugin.PARTTrainer
try:
    part_plugin.PixelPGD
except ImportError as error:
    print(error)
"""
    assert run(code).strip() == (
        "part_plugin.PixelPGD needs torchattacks, which cannot be imported (half an upgrade): pip install torchattacks"
    )


def test_a_toolkit_that_knows_its_remedy_says_it_itself():
    printed = run("""
sys.meta_path[:] = everything
class WithoutResources(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "pkg_resources" else super().find_spec(name, path, target)
sys.meta_path[:] = [WithoutResources if finder is PathFinder else finder for finder in sys.meta_path]
try:
    from part_plugin import load_checkpoint
except ImportError as error:
    print(error)
""")
    assert printed.strip() == (
        "robustbench imports pkg_resources, which setuptools 82 took away: pip install 'setuptools<82'"
    )


def test_a_name_is_imported_once_and_then_there():
    assert part_plugin.PixelPGD is part_plugin.adapters.torchattacks.PixelPGD
    assert vars(part_plugin)["PixelPGD"] is part_plugin.PixelPGD


def test_importing_the_package_imports_nothing_heavy():
    assert run("import part_plugin; print('torch' in sys.modules)").strip() == "False"


def test_all_public_names_resolve():
    for name in [*part_plugin._CORE, *part_plugin._ADAPTERS]:
        assert getattr(part_plugin, name).__doc__, name
        assert name in dir(part_plugin)
    with pytest.raises(AttributeError, match="has no attribute 'PixelPDG'"):
        _ = part_plugin.PixelPDG
    assert importlib.resources.files(part_plugin).joinpath("py.typed").is_file()


def grown(call, times):
    """Python objects, traced bytes and resident memory that `times` calls add."""
    process = psutil.Process()
    for _ in range(50):
        call()
    gc.collect()
    objects, resident = len(gc.get_objects()), process.memory_info().rss
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(times):
        call()
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return len(gc.get_objects()) - objects, traced, process.memory_info().rss - resident


@pytest.mark.parametrize("cam", ["gradcam", "xgradcam", "layercam"])
def test_memory_is_flat_over_a_thousand_maps(digits_net, batch, cam):
    objects, traced, resident = grown(lambda: class_activation_map(digits_net, batch[0], cam=cam), 1000)
    assert objects < 200
    assert traced < 100_000
    assert resident < 20e6


def test_memory_is_flat_over_training_steps_with_maps(digits_net, batch):
    part = PART("trades", steps=1, burn_in=0)
    attack = PixelPGD(digits_net, steps=1)
    wrapped = part_plugin.PixelAttack(torchattacks.FGSM(digits_net))

    def step():
        part.loss(digits_net, *batch).backward()
        attack(*batch)
        wrapped(*batch)

    objects, traced, resident = grown(step, 200)
    assert objects < 200
    assert traced < 100_000
    assert resident < 20e6


def test_hooks_are_gone_after_many_steps(digits_net, batch):
    attack = PixelPGD(digits_net, steps=1)
    for _ in range(5):
        attack(*batch)
        digits_net(batch[0])
    for module in digits_net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in digits_net.parameters())


def test_the_attack_is_no_part_of_the_model(digits_net):
    keys = list(digits_net.state_dict())
    digits_net.attack = PixelPGD(digits_net)
    digits_net.part = PART()
    assert list(digits_net.state_dict()) == keys
    assert not isinstance(digits_net.attack.budget, torch.nn.Module)
