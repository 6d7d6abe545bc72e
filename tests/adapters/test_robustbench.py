"""RobustBench from its PyPI release, its evaluation and its architectures."""

import base64
import hashlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from part_plugin import evaluate
from part_plugin.adapters.robustbench import benchmark, build_model, check_own_files

SMALL = ("robust_wide_resnet.RobustWideResNet",)
ARGUMENTS = {"channel_configs": [4, 4, 8, 8], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]}


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = build_model(*SMALL, ARGUMENTS)
    model(torch.rand(32, 3, 8, 8))  # batch norm statistics of its own
    return model.eval()


def test_import_robustbench_works_through_the_adapter():
    """In a new interpreter, and without leaving a stand-in for autoattack behind."""
    code = (
        "import sys, part_plugin.adapters.robustbench, robustbench\n"
        "from robustbench.eval import benchmark\n"
        "from robustbench.utils import load_model\n"
        "print(robustbench.load_cifar10.__name__, 'autoattack' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["load_cifar10", "False"]


def test_benchmark_calls_autoattack_with_arguments_it_takes(network, monkeypatch):
    """robustbench.benchmark itself runs, on images in the place of CIFAR-10's."""
    import robustbench.eval

    torch.manual_seed(1)
    x, y = torch.rand(6, 3, 8, 8), torch.arange(6)
    monkeypatch.setattr(robustbench.eval, "load_clean_dataset", lambda *args: (x, y))
    clean, robust = robustbench.eval.benchmark(network, n_examples=6, eps=0.3, batch_size=6)
    assert clean == pytest.approx(evaluate(network, x, y, attacks=["natural"], verbose=False)["natural"].accuracy)
    assert 0 <= robust <= clean


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (255 * x, y), ValueError, "images span [0, 255]; allowed is [0, 1]; divide them by 255"),
        (
            lambda x, y: (x.numpy(), y),
            TypeError,
            "images are a ndarray; a floating-point tensor is needed (torch.from_numpy(x).float() makes one)",
        ),
        (lambda x, y: (x, y[:2]), ValueError, "labels have shape (2,); expected (3,), (3, 1) or (3, K)"),
    ],
)
def test_wrong_images_are_refused(network, change, error, message):
    x = torch.rand(3, 3, 8, 8)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with pytest.raises(error) as caught:
        benchmark(network, *change(x, torch.arange(3)))
    assert str(caught.value) == message


def test_everything_is_as_it_was_after_an_exception(network):
    class Broken(nn.Module):
        def forward(self, x):
            raise ArithmeticError("broken")

    import robustbench

    loaders, tracer, state = dict(robustbench.data._clean_dataset_loaders), sys.gettrace(), torch.get_rng_state()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ArithmeticError):
        benchmark(Broken(), images, torch.arange(3))
    assert robustbench.data._clean_dataset_loaders == loaders
    assert sys.gettrace() is tracer
    assert torch.equal(torch.get_rng_state(), state)


def test_own_files_of_robustbench_are_recognised(tmp_path, monkeypatch):
    """The file of another package over one of RobustBench's, as torchattacks' wheel leaves it."""
    check_own_files()  # as installed here
    content = b"the file that RobustBench installed\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    info = tmp_path / "robustbench-1.1.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robustbench\nVersion: 1.1.1\n")
    (info / "RECORD").write_text(f"robustbench/eval.py,sha256={digest},{len(content)}\n")
    (tmp_path / "robustbench").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "robustbench" / "eval.py").write_bytes(content)
    check_own_files()
    remedy = "pip install --force-reinstall --no-deps robustbench"
    (tmp_path / "robustbench" / "eval.py").write_text("an older one\n")
    with pytest.raises(ImportError) as caught:
        check_own_files()
    assert str(caught.value) == (
        "1 of robustbench's files are missing or another package's (robustbench/eval.py), most likely because "
        f"torchattacks' wheel holds an old copy: {remedy}"
    )
    (tmp_path / "robustbench" / "eval.py").unlink()
    with pytest.raises(ImportError, match=remedy):
        check_own_files()
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ImportError) as caught:
        check_own_files()
    assert str(caught.value) == "robustbench is not installed"


def test_a_resnet18_of_usual_width_is_robustbenchs():
    """Same modules by name, same shapes; and what its weights compute is the same."""
    plain, ours = build_model("resnet.ResNet18"), build_model("resnet.ResNet18", {"width": 64})
    ours.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain.eval()(x), ours.eval()(x))
    assert build_model("resnet.ResNet18", {"width": 8}).conv1.out_channels == 8
    narrow = build_model("resnet.ResNet18", {"num_classes": 7})
    assert (narrow.conv1.out_channels, narrow.linear.out_features) == (64, 7)
