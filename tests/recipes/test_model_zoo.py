"""RobustBench's models, from files that lie where RobustBench puts them."""

import socket

import pytest
import torch
from torch import nn

from part_plugin import load_network
from part_plugin.adapters.robustbench import robustbench
from part_plugin.recipes.model_zoo import _files, _places

NAME = "Addepalli2021Towards_RN18"


def entry(dataset="cifar10", name=NAME):
    models = robustbench.model_zoo.models.model_dicts
    return next(models[one] for one in models if one.value == dataset)[robustbench.model_zoo.enums.ThreatModel.Linf][
        name
    ]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A directory as RobustBench fills it, with a model whose weights are drawn."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    model = entry()["model"]()
    (folder / "cifar10" / "Linf").mkdir(parents=True)
    torch.save({"state_dict": nn.DataParallel(model).state_dict()}, folder / "cifar10" / "Linf" / f"{NAME}.pt")
    return folder, model.eval()


@pytest.mark.parametrize("name", [NAME, f"cifar10/Linf/{NAME}"])
def test_a_model_by_its_name(zoo, name, monkeypatch):
    folder, model = zoo
    monkeypatch.setattr(socket, "socket", None)
    loaded, description = load_network(f"robustbench:{name}", model_dir=folder)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert description["training"] == {"dataset": "cifar10", "eps": 8 / 255}
    assert (description["num_classes"], description["architecture"]) == (10, f"robustbench:cifar10/Linf/{NAME}")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in __import__("os").environ


def test_a_file_of_a_model_is_data(zoo, tmp_path):
    path = tmp_path / "cifar10" / "Linf" / f"{NAME}.pt"
    path.parent.mkdir(parents=True)
    torch.save(zoo[1], path)
    with pytest.raises(ValueError, match=rf"checkpoint '{path}' cannot be used: it is damaged or not that of '{NAME}'"):
        load_network(f"robustbench:{NAME}", model_dir=tmp_path)


def test_nothing_is_fetched(tmp_path, monkeypatch):
    """Of no model, those included whose weights a library would fetch; and no directory is made."""
    monkeypatch.setattr(socket, "socket", None)
    for place in _places():
        with pytest.raises((FileNotFoundError, ValueError)):
            load_network("robustbench:" + "/".join(place), model_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_each_model_with_files_is_made_without_fetching():
    """What has a file is made by code that asks for no weights of a library's."""
    import inspect

    for dataset, threat, name in _places():
        made = inspect.getsource(next(
            models[name]["model"]
            for one, threats in robustbench.model_zoo.models.model_dicts.items()
            for kind, models in threats.items()
            if (one.value, kind.value) == (dataset, threat)
        ))  # fmt: skip
        assert not _files(dataset, threat, name, __import__("pathlib").Path()) or "pretrained=True" not in made
