"""Files made to hurt: each is one sentence, and nothing but that file is opened, nothing run, fetched or imported."""

import io
import json
import os
import pickle
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import NETWORKS
from forgery import DESCRIPTION, entries_and_data, forged, outcomes, weights
from PIL import Image
from torch import nn

from part_plugin import save_checkpoint
from part_plugin.recipes.architectures import build_network

UNKNOWN = "is not known; it must be one of the"
ARCHITECTURES = [
    "resnet.conv3x3",
    "bit_rn.conv3x3",
    "bit_rn_v2.tf2th",
    "resnet.ResNet",
    "resnet.F",
    "resnet.F.conv2d",
    "resnet.nn.Linear",
    "resnet.ResNet18.__init__",
    "resnet.ResNet18.__globals__",
    "resnet.__builtins__",
    "resnet.__loader__",
    "dm_wide_resnet._Swish",
    "alexnet._create_alexnet",
    "alexnet.build_model_with_cfg",
    "convstem_models.create_model",
    "comp_model.get_composite_model",
    "comp_model.get_nonlin_mixed_classifier",
    "sparsified_model.get_sparse_model",
    "sodef_layers.rebuffi_sodef",
    "boosting_wide_resnet.WideResNet",
    "timm.create_model",
    "os.system",
    "builtins.eval",
    "..resnet.ResNet18",
    "resnet",
    "resnet.",
    ".ResNet18",
    "",
    "resnet.ResNet18\n",
    "resnet.ResNet18 ",
    "RESNET.RESNET18",
    "hf-hub:timm/resnet18",
    "local-dir:/tmp/model",
    "https://example.org/model.pt",
    "file:///etc/passwd",
    "/etc/passwd",
    "x" * 100_000,
    "\ud800\udfff\x1b[31m",
    "os:system",
    "part_plugin.cli:main",
    "timm.models:create_model",
    "robustbench:os.system",
]
LIBRARIES = [  # which the prefix names
    "timm:hf-hub:timm/resnet18",
    "timm:hf_hub:timm/resnet18",
    "timm:local-dir:/tmp/model",
    "timm:resnet18.a1_in1k",
    "timm:resnet18.hf-hub:timm/resnet18",
    "timm:create_model",
    "timm:",
    "torchvision:get_model",
    "torchvision:fcn_resnet50",
    "torchvision:../x",
    "transformers:AutoModelForImageClassification",
    "transformers:pipeline",
    "transformers:ViTModel",
    "transformers:TimmWrapperForImageClassification",
    "transformers:microsoft/resnet-50",
]
UNFIT = "do not fit architecture"
WIDE, TIMM = "robust_wide_resnet.RobustWideResNet", "deit.tian2022deeper_deit_s_imagenet_corruptions"
CALLED = [  # architecture, its arguments, what is wrong
    ("alexnet.alexnet_imagenet_corruptions", {"pretrained": True}, "it has no 'pretrained'"),
    (TIMM, {"pretrained": True}, "it has no 'pretrained'"),
    (TIMM, {"pretrained_cfg": {"file": "/etc/passwd"}}, "it has no 'pretrained_cfg'"),
    (TIMM, {"pretrained_cfg_overlay": {"url": "https://example.org/"}}, "it has no 'pretrained_cfg_overlay'"),
    (TIMM, {"checkpoint_path": "/etc/passwd"}, "it has no 'checkpoint_path'"),
    (TIMM, {"hf_hub_id": "a/b"}, "it has no 'hf_hub_id'"),
    (TIMM, {"cache_dir": "/tmp"}, "it has no 'cache_dir'"),
    (TIMM, {"img_size": 65536}, "it has no 'img_size'"),
    (TIMM, {"num_classes": {"file": "x"}}, "num_classes={'file': 'x'} is not an integer"),
    (TIMM, {"norm_layer": "torch.hub.load"}, "it has no 'norm_layer'"),
    ("xcit.debenedetti2022light_xcit_s12_cifar10_linf", {"pretrained": 1}, "it has no 'pretrained'"),
    ("convstem_models.get_convstem_models", {"modelname": "vit_s_cvst", "pretrained": True}, "it has no 'pretrained'"),
    ("convstem_models.get_convstem_models", {"modelname": "https://example.org"}, "Invalid model name"),
    ("robustarch_wide_resnet.get_model", {"model_name": "../../x"}, "Unknown model name"),
    ("robust_resnet.get_model", {"modelname": "x" * 65}, "is not text of at most 64 characters"),
    ("robust_resnet.PreActResNet", {"activations": ["__import__"] * 3}, "__import__"),
    ("robust_resnet.PreActResNet", {"activations": ["ReLU"] * 65}, "is not a list of at most 64"),
    ("dm_wide_resnet.DMWideResNet", {"activation_fn": "eval"}, "it has no 'activation_fn'"),
    ("dm_wide_resnet.DMPreActResNet", {"use_cuda": True}, "it has no 'use_cuda'"),
    ("dm_wide_resnet.DMWideResNet", {"mean": [0.5] * 65}, "is not a list of at most 64"),
    ("dm_wide_resnet.DMWideResNet", {"std": [1e300] * 3}, "each a finite number"),
    ("dm_wide_resnet.DMWideResNet", {"mean": [[0.5]] * 3}, "each a finite number"),
    ("resnet.ResNet18", {"weights": "DEFAULT"}, "it has no 'weights'"),
    ("resnet.ResNet18", {"width": "64"}, "width='64' is not an integer from 1 to 65536"),
    ("resnet.ResNet18", {"width": True}, "width=True is not an integer"),
    ("resnet.ResNet18", {"width": 8.0}, "width=8.0 is not an integer"),
    ("resnet.ResNet18", {"width": -1}, "width=-1 is not an integer"),
    ("resnet.ResNet18", {"width": 0}, "width=0 is not an integer"),
    ("resnet.ResNet18", {"width": 10**4000}, "an integer of 13288 bits is not an integer from 1 to 65536"),
    ("resnet.ResNet18", {"width": None}, "width=None is not an integer"),
    ("resnet.ResNet18", {"num_classes": 10**12}, "num_classes=1000000000000 is not an integer"),
    ("resnet.ResNet18", {"": 1}, "it has no ''"),
    ("resnet.ResNet18", {"self": 1}, "it has no 'self'"),
    ("resnet.ResNet50", {"width": 8}, "known are none"),
    ("wide_resnet.WideResNet", {"depth": 10**8}, "depth=100000000 is not an integer from 1 to 65536"),
    ("wide_resnet.WideResNet", {"widen_factor": 10**12}, "widen_factor=1000000000000 is not an integer"),
    ("wide_resnet.WideResNet", {"dropRate": float("nan")}, "dropRate=nan is not a finite number"),
    ("wide_resnet.WideResNet", {"sub_block1": "yes"}, "sub_block1='yes' is not True or False"),
    ("wide_resnet.WideResNet", {"depth": 11}, "AssertionError"),
    (WIDE, {"depth_configs": [10**8] * 3}, "depth_configs=[100000000, 100000000, 100000000] is not a list"),
    (WIDE, {"depth_configs": [[1], [1], [1]]}, "depth_configs=[[1], [1], [1]] is not a list"),
    (WIDE, {"depth_configs": {"0": 1}}, "is not a list"),
    (WIDE, {"channel_configs": [1] * 65}, "is not a list of at most 64"),
    (WIDE, {"channel_configs": [4, 4]}, "AssertionError"),
    ("CARD_resnet.WidePreActResNet", {"num_blocks": [3 * 10**8, 2, 2, 2]}, "is not a list"),
    ("CARD_resnet.WidePreActResNet", {"block": "eval"}, "it has no 'block'"),
    ("timm:resnet18", {"pretrained": True}, "'pretrained' is not allowed"),
    ("timm:resnet18", {"checkpoint_path": "/etc/passwd"}, "'checkpoint_path' is not allowed"),
    ("timm:resnet18", {"pretrained_cfg": {"file": "/etc/passwd"}}, "'pretrained_cfg' is not allowed"),
    ("timm:resnet18", {"block": "eval"}, "'block' is not allowed"),
    ("timm:resnet18", {"channels": [10**12] * 4}, "is not a finite number, an integer from 0 to 65536"),
    ("timm:resnet18", {"channels": [[[[8]]]] * 65}, "or a list of at most 64"),
    ("timm:resnet18", {"channels": {"a": 1}}, "channels={'a': 1} is not a finite number"),
    ("timm:vit_tiny_patch16_224", {"img_size": 65536}, "sides are at most 1024"),
    ("timm:vit_tiny_patch16_224", {"embed_dim": float("nan")}, "embed_dim=nan is not a finite number"),
    ("torchvision:resnet18", {"weights": "DEFAULT"}, "'weights' is not allowed"),
    ("torchvision:resnet18", {"progress": True}, "'progress' is not allowed"),
    ("torchvision:resnet18", {"norm_layer": "eval"}, "'norm_layer' is not allowed"),
    ("transformers:ViTForImageClassification", {"auto_map": {"AutoModel": "a--b.C"}}, "'auto_map' is not allowed"),
    (
        "transformers:ViTForImageClassification",
        {"_attn_implementation": "a/b"},
        "'_attn_implementation' is not allowed",
    ),
    ("transformers:ViTForImageClassification", {"_name_or_path": "a/b"}, "'_name_or_path' is not allowed"),
    ("transformers:ViTForImageClassification", {"dtype": "float16"}, "'dtype' is not allowed"),
    ("transformers:ViTForImageClassification", {"hidden_act": "eval"}, "do not fit architecture"),
    ("transformers:Swinv2ForImageClassification", {"window_size": 1025}, "sides are at most 1024"),
]
LARGER = "it is larger than 45 tensors with 2717 values"
HUGE = [
    ("resnet.ResNet18", {"width": 65536}),
    ("resnet.ResNet18", {"num_classes": 65536}),
    ("wide_resnet.WideResNet", {"depth": 65530, "widen_factor": 1}),
    ("wide_resnet.WideResNet", {"widen_factor": 65536}),
    (WIDE, {"depth_configs": [1024] * 3, "channel_configs": [1, 1, 1, 1]}),
    (WIDE, {"channel_configs": [65536] * 4}),
    ("robust_resnet.PreActResNet", {"kernel_size_configs": [65536] * 3}),
    ("dm_wide_resnet.DMWideResNet", {"width": 65536}),
    ("dm_rn.WideResNet", {"depth": 65530, "width": 1}),
    ("CARD_resnet.WidePreActResNet", {"num_blocks": [1024] * 4}),
    ("CARD_resnet.LRR_ResNet", {"width": 65536}),
    ("bit_rn_v2.ResNetV2", {"block_units": [1024] * 4, "width_factor": 1}),
    ("bit_rn_v2.ResNetV2", {"block_units": [1] * 4, "width_factor": 65536}),
    ("convnext_v2.ConvNeXtV2", {"depths": [1024] * 64, "dims": [1] * 4}),
    ("convnext_v2.convnextv2_huge", {}),
    ("MIMIR_swin_transformer.build_swin_large", {}),
    ("Meansparse_ra_wrn_70_16.get_model", {"model_name": "ra_wrn70_16"}),
    ("timm:resnet18", {}),
    ("timm:resnet18", {"channels": [65536] * 4}),
    ("timm:vit_tiny_patch16_224", {"depth": 60000}),
    ("timm:vit_tiny_patch16_224", {"img_size": 1024, "patch_size": 1}),
    ("timm:beit_base_patch16_224", {"img_size": 1024, "patch_size": 1}),
    ("torchvision:vit_b_16", {}),
    ("torchvision:mobilenet_v2", {"width_mult": 1e6}),
    ("transformers:ViTForImageClassification", {"hidden_size": 65536, "num_attention_heads": 1}),
    ("transformers:ViTForImageClassification", {"num_hidden_layers": 60000}),
    ("transformers:SwinForImageClassification", {"depths": [60000]}),
]
DESCRIBED = [  # changes of the description, what is wrong
    ({"architecture": 5}, "architecture=5 is a int; str is needed"),
    ({"architecture": ["resnet.ResNet18"]}, "architecture=['resnet.ResNet18'] is a list; str is needed"),
    ({"architecture": None}, "architecture=None is a NoneType; str is needed"),
    ({"arguments": None}, "arguments=None is a NoneType; dict is needed"),
    ({"arguments": [["width", 4]]}, "arguments=[['width', 4]] is a list; dict is needed"),
    ({"num_classes": "10"}, "num_classes='10' is a str; int is needed"),
    ({"num_classes": True}, "num_classes=True is a bool; int is needed"),
    ({"num_classes": 7}, "num_classes=7 does not fit the weights, which have 10"),
    ({"num_classes": 10**30}, "does not fit the weights, which have 10"),
    ({"training": [1]}, "training=[1] is a list; dict is needed"),
    ({"mean": "abc", "std": "abc"}, "mean='abc' is a str; list or None is needed"),
    ({"mean": [0.5] * 3}, "mean and std go together; give both or neither"),
    ({"mean": [0.5] * 3, "std": [0.0, 1, 1]}, "std=[0.0, 1, 1] is not allowed; 3 finite numbers > 0 are needed"),
    ({"mean": [0.5] * 3, "std": [1e-300, 1, 1]}, "std=[1e-300, 1, 1] is not allowed"),
    ({"mean": [0.5] * 3, "std": [-1, 1, 1]}, "std=[-1, 1, 1] is not allowed"),
    ({"mean": [float("nan")] * 3, "std": [1] * 3}, "mean=[nan, nan, nan] is not allowed; 3 finite numbers are needed"),
    ({"mean": [0.5] * 10**4, "std": [1] * 10**4}, "3 finite numbers are needed, one per channel"),
    ({"mean": [[0.5]] * 3, "std": [1] * 3}, "mean=[[0.5], [0.5], [0.5]] is not allowed"),
    ({"mean": [True] * 3, "std": [1] * 3}, "mean=[True, True, True] is not allowed"),
]


class Harm:
    """Unpickled by what calls anything, it makes a file."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


class Callable:
    """Pickled as a call of something that weights_only allows."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def first_format(changes=None, tensors=None, **more):
    buffer = io.BytesIO()
    description = {name: value for name, value in DESCRIPTION.items() if name != "versions"}
    torch.save({"format": 1} | description | (changes or {}) | {"state_dict": tensors or weights()} | more, buffer)
    return buffer.getvalue()


def rezipped(data, change=lambda name, content: content, compression=zipfile.ZIP_STORED, again=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in [*old.namelist(), *again]:
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def changed_entry(**changes):
    entries, data = entries_and_data(weights())
    entries["fc.bias"] = {key: value for key, value in (entries["fc.bias"] | changes).items() if value is not None}
    return forged(entries=json.dumps(entries)[1:-1], data=data)


def second_formats():
    """(name, content, what is wrong)."""
    for number, name in enumerate(ARCHITECTURES):
        yield f"architecture-{number}", forged({"architecture": name}), UNKNOWN
    for number, name in enumerate(LIBRARIES):
        yield f"library-{number}", forged({"architecture": name}), "is not known; "
    for number, (name, arguments, what) in enumerate(CALLED):
        yield f"arguments-{number}", forged({"architecture": name, "arguments": arguments}), what
    for number, (name, arguments) in enumerate(HUGE):
        yield f"huge-{number}", forged({"architecture": name, "arguments": arguments}), LARGER
    for number, (changes, what) in enumerate(DESCRIBED):
        yield f"described-{number}", forged(changes), what
    for key in DESCRIPTION:
        yield f"without-{key}", forged(without=[key]), f"{key!r} is missing"
    good, text = forged(), json.dumps(DESCRIPTION)[1:-1]
    entries, data = entries_and_data(weights())
    whole, header = json.dumps(entries)[1:-1], good[8 : -len(data)]
    yield "unknown-key", forged({"code": "import os"}), "it has no 'code'; known are"
    yield "twice-described", forged(text=text + ', "architecture": "os.system"'), "'architecture' is there twice"
    yield "format-twice", forged(text=text + ', "format": 1'), "'format' is there twice"
    yield "nested", forged(text=text + ', "x": ' + "[" * 100_000 + "]" * 100_000), "it is nested too deeply"
    yield "nested-arguments", forged({"arguments": json.loads("[" * 900 + "]" * 900)}), "dict is needed"
    yield "huge-number", forged(text=text[:-1] + ', "x": ' + "9" * 5000 + "}"), "its header cannot be read"
    yield "no-json", forged(text=text + ", oops"), "its header cannot be read"
    yield "format-3", forged(version=3), "it has format 3; this version of part_plugin reads 1 and 2"
    yield "format-0", forged(version=0), "it has format 0; this version of part_plugin reads 1 and 2"
    yield (
        "more-metadata",
        forged(more_metadata=', "url": "https://example.org"'),
        "its metadata are ['part_plugin', 'url']",
    )
    yield "metadata-twice", forged(more_metadata=', "part_plugin": "{}"'), "'part_plugin' is there twice"
    yield (
        "tensor-twice",
        forged(entries=f'{whole}, "fc.bias": {json.dumps(entries["fc.bias"])}'),
        "'fc.bias' is there twice",
    )
    yield "two-metadata", forged(entries=whole + ', "__metadata__": {}'), "'__metadata__' is there twice"
    yield "header-nested", forged(entries=whole + ', "x": ' + "[" * 100_000 + "]" * 100_000), "it is nested too deeply"
    yield "header-no-entry", forged(entries=whole + ', "x": 5'), "the entry of 'x' is not one of a tensor"
    yield "header-long-name", forged(entries=f'{whole}, "{"x" * 600}": {{}}'), "is not one of a tensor"
    yield "header-not-utf8", forged(entries=whole + ', "\udc80": {}'), "its header cannot be read"
    yield (
        "header-longest",
        struct.pack("<Q", 2**64 - 1) + header + data,
        "a header of 18446744073709551615 bytes is announced",
    )
    yield "header-99MB", struct.pack("<Q", 99 * 10**6) + header + data, "at most 1048576 are read"
    yield "header-longer", struct.pack("<Q", len(header) + 8) + header + data, "the checksum of its header is wrong"
    yield (
        "header-many",
        forged(entries=whole + "".join(f', "{n}": {{}}' for n in range(90_000))),
        "at most 1048576 are read",
    )
    many = {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(14_000)}
    yield "many-tensors", forged(entries=json.dumps(entries | many)[1:-1]), "it has no '0'"
    yield "one-tensor-more", forged(tensors=weights() | {"fc.more": torch.zeros(1)}), "it has no 'fc.more'"
    yield (
        "one-tensor-less",
        forged(tensors={n: t for n, t in weights().items() if n != "fc.bias"}),
        "'fc.bias' is missing",
    )
    yield (
        "no-tensors",
        forged(entries='"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}', data=b""),
        "is missing",
    )
    yield "shape", forged(tensors=weights() | {"fc.bias": torch.zeros(11)}), "'fc.bias' is float32 (11,); float32 (10,)"
    yield (
        "dtype",
        forged(tensors=weights() | {"fc.bias": torch.zeros(10).half()}),
        "'fc.bias' is float16 (10,); float32 (10,)",
    )
    yield "dtype-unknown", changed_entry(dtype="F8_E4M3"), "'fc.bias' has dtype 'F8_E4M3'; F64, F32"
    yield "dtype-list", changed_entry(dtype=["F32"]), "has dtype ['F32']"
    yield "entry-field", changed_entry(url="https://example.org"), "the entry of 'fc.bias' is not one of a tensor"
    yield "entry-lacks", changed_entry(shape=None), "the entry of 'fc.bias' is not one of a tensor"
    yield "shape-negative", changed_entry(shape=[-1, -10]), "shape and data_offsets of 'fc.bias'"
    yield "shape-huge", changed_entry(shape=[0, 2**60], data_offsets=[0, 0]), "bytes are there and its header describes"
    yield "shape-float", changed_entry(shape=[10.0]), "shape and data_offsets of 'fc.bias'"
    yield "shape-overflow", changed_entry(shape=[2**62] * 8), "and has 40 bytes"
    yield "offsets-huge", changed_entry(data_offsets=[0, 2**62]), "and has 4611686018427387904 bytes"
    yield "offsets-three", changed_entry(data_offsets=[0, 40, 80]), "shape and data_offsets of 'fc.bias'"
    yield "offsets-overlap", changed_entry(data_offsets=[0, 40]), "it is damaged, "
    yield "trailing", good + b"\0", f"{len(good) + 1} bytes are there and its header describes {len(good)}"
    yield "cut", good[:-1], f"{len(good) - 1} bytes are there and its header describes {len(good)}"
    yield "cut-header", good[:500], "its header is cut off"
    wrong = bytearray(good)
    wrong[-1] ^= 1
    yield "data", bytes(wrong), "the checksum of its weights is wrong"


def first_formats():
    told = "is damaged or holds more than plain data and tensors; save_checkpoint writes one"
    for number, name in enumerate(ARCHITECTURES[:30:3]):
        yield f"architecture-{number}", first_format({"architecture": name}), UNKNOWN
    for number, (name, arguments, what) in enumerate(CALLED[1::4]):
        yield f"arguments-{number}", first_format({"architecture": name, "arguments": arguments}), what
    for number, (name, arguments) in enumerate(HUGE[::3]):
        yield f"huge-{number}", first_format({"architecture": name, "arguments": arguments}), LARGER
    yield "described", first_format({"mean": [0.5] * 3, "std": [0.0] * 3}), "std=[0.0, 0.0, 0.0] is not allowed"
    yield "huge-number", first_format({"arguments": {"num_classes": 10**60}}), "an integer of 200 bits is not"
    yield "larger-number", first_format({"arguments": {"num_classes": 10**5000}}), told
    yield "tensor-argument", first_format({"arguments": {"num_classes": torch.ones(2)}}), "num_classes=a Tensor is not"
    yield "tensor-name", first_format({"architecture": torch.ones(2)}), "'architecture' is a Tensor; str is needed"
    wide = weights() | {"fc.weight": torch.zeros(1).expand(10**6, 10**6)}
    yield "expanded", first_format(tensors=wide), "its weights are larger than the file"
    yield "sparse", first_format(tensors=weights() | {"fc.bias": torch.zeros(10).to_sparse()}), told
    yield "meta", first_format(tensors=weights() | {"fc.bias": torch.zeros(10, device="meta")}), told
    yield (
        "quantized",
        first_format(tensors=weights() | {"x": torch.quantize_per_tensor(torch.ones(4), 1, 0, torch.qint8)}),
        told,
    )
    yield "no-tensor", first_format(tensors=weights() | {"fc.bias": "x"}), "the weights hold 'fc.bias', 'x'"
    yield "number-name", first_format(tensors=weights() | {5: torch.ones(1)}), "the weights hold 5, a Tensor"
    yield "code", first_format(harm=Harm()), told
    yield "memory", first_format(harm=Callable(bytearray, 10**13)), told
    yield "storage", first_format(harm=Callable(torch.UntypedStorage, 10**13)), told
    yield "module", first_format(harm=nn.Linear(1, 1)), told
    yield "set", first_format(harm={1, 2}), told
    good = first_format()
    yield "compressed", rezipped(good, compression=zipfile.ZIP_DEFLATED), told
    yield "bomb", rezipped(good, lambda n, c: bytes(10**8) if n.endswith("data/0") else c, zipfile.ZIP_DEFLATED), told
    yield "record-twice", rezipped(good, again=["archive/data.pkl"]), told
    yield "long-pickle", rezipped(good, lambda n, c: c + b"0" * (1 << 22) if n.endswith(".pkl") else c), told
    claims = good.replace(b"data/0", b"data/\xff")
    yield "no-record", claims, told
    deep = pickle.dumps(0, 2)[:2] + b"]" * 500_000 + b"a" * 499_999 + b"."
    yield (
        "deep-pickle",
        rezipped(good, lambda n, c: deep if n.endswith("data.pkl") else c),
        "is not one of part_plugin's",
    )
    memo = b"\x80\x02}r\xff\xff\xff\xff."
    yield "memo", rezipped(good, lambda n, c: memo if n.endswith("data.pkl") else c), "is not one of part_plugin's"
    old = io.BytesIO()
    torch.save({"format": 1}, old, _use_new_zipfile_serialization=False)
    yield "old-torch", old.getvalue(), told
    yield "bare-pickle", pickle.dumps(Harm()), told
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), script)
    yield "torchscript", script.getvalue(), told
    flipped = bytearray(good)
    flipped[good.index(b"PK\x01\x02") - 600] ^= 1
    yield "flipped", bytes(flipped), told
    yield "empty", b"", told
    yield "text", b"#!/bin/sh\nrm -rf /\n", told
    yield "numpy", b"\x93NUMPY" + bytes(100), told


def others(folder):
    """(name, what is wrong) of paths that are no regular files, made in a folder."""
    path = folder / "path-{}.pt"
    Path(str(path).format("directory")).mkdir()
    os.mkfifo(str(path).format("fifo"))
    here = socket.socket(socket.AF_UNIX)
    back = os.getcwd()
    os.chdir(folder)
    here.bind("path-socket.pt")
    os.chdir(back)
    here.close()
    targets = {"zeros": "/dev/zero", "dangling": "gone", "loop": "path-loop.pt", "to-fifo": "path-fifo.pt"}
    for name, target in (targets | {"to-directory": ".", "foreign": "/etc/hostname", "stdin": "/dev/stdin"}).items():
        Path(str(path).format(name)).symlink_to(target)
    good = forged()
    for name, start in (("sparse", good), ("sparse-zip", b"PK\x03\x04")):
        with open(str(path).format(name), "wb") as file:
            file.write(start)
            file.truncate(1 << 40 if start == good else 1 << 20)
    return {
        "path-directory": "is a directory; a file is needed",
        "path-to-directory": "is a directory; a file is needed",
        "path-fifo": "is not a regular file; one is needed",
        "path-to-fifo": "is not a regular file; one is needed",
        "path-zeros": "is not a regular file; one is needed",
        "path-socket": "is not a regular file; one is needed",
        "path-dangling": "does not exist",
        "path-loop": "cannot be read: Too many levels of symbolic links",
        "path-foreign": "is damaged or holds more than plain data and tensors",
        "path-stdin": "",
        "path-sparse": f"{1 << 40} bytes are there and its header describes {len(good)}",
        "path-sparse-zip": "is damaged or holds more than plain data and tensors",
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    files = {"two": forged(), "one": first_format(), "other-names": rezipped(first_format())}
    for name, content in files.items():
        (folder / f"{name}.pt").write_bytes(content)
    return [folder / f"{name}.pt" for name in files]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A good file of each library, and of each class of transformers that is named here."""
    folder, small = tmp_path_factory.mktemp("libraries"), {"embed_dim": 4, "depths": [1], "num_heads": [1]}
    named = {name: arguments for name, (_, arguments) in NETWORKS.items() if not name.startswith(("foreign", "robust"))}
    named |= {f"transformers:{name}ForImageClassification": small for name in ("Swin", "Swinv2")}
    for number, (name, arguments) in enumerate(named.items()):
        save_checkpoint(folder / f"{number}.pt", build_network(name, arguments, 4), name, 4, arguments)
    return list(folder.iterdir())


HARMLESS = {"open", "builtins.id"}
TYPERS = HARMLESS | {  # it looks at functions and evaluates annotations
    *("compile", "exec", "os.putenv", "os.unsetenv"),
    *("object.__getattr__", "object.__setattr__", "sys._getframe", "sys._getframemodulename"),
}
TRIALS = {
    "os.mkdir",
    "os.listdir",
    "os.remove",
    "os.truncate",
    "fcntl.flock",
}  # of what will be written


def tried(folder, event, argument):
    """Whether an event is the trial of a destination, or the look at which versions are installed."""
    path = Path(argument)
    hidden = path.name.startswith(".") and path.parent in (folder, folder / "results")
    installed = argument == "." or path.name in ("METADATA", "PKG-INFO") or path.suffix == ".zip"
    return event in ("fcntl.flock", "os.truncate") or hidden or installed or path in (folder, folder / "results")


def check(folder, outcome, expected, harmless=HARMLESS):
    """One sentence each, in a second or so, without memory; and Python tells auditors of nothing but reads."""
    assert set(outcome) == set(expected)
    wrong = []
    for name, (kind, text, seconds, grown, events) in outcome.items():
        if harmless is TYPERS:
            events = [one for one in events if one[0] not in TRIALS | {"open"} or not tried(folder, one[0], one[1][0])]
        path, text = folder / f"{name}.pt", text.removeprefix("part-plugin: ").removesuffix("\n")
        opened = {one[1][0] for one in events if one[0] == "open"}
        fits = {
            "kind": kind in ("ValueError", "FileNotFoundError", "IsADirectoryError", "OSError", "Told"),
            "sentence": text.startswith(f"checkpoint '{path}' ") and expected[name] in text,
            "one line": text.isprintable() and len(text) < len(str(path)) + 700,
            "time": seconds < 5,  # of CPU; a pickle nested a million times deep takes 2 to 3
            "memory": grown < 100_000,
            "files": opened <= {str(path)},
            "events": {one[0] for one in events} <= harmless,
        }
        if not all(fits.values()):
            failed = [what for what, fine in fits.items() if not fine]
            wrong.append((name, failed, kind, text, seconds, grown, [one for one in events if one[0] not in harmless]))
    assert not wrong, "\n".join(map(repr, wrong))


def test_none_hurts(tmp_path, good, libraries):
    expected = {}
    for version, files in ((2, second_formats()), (1, first_formats())):
        for name, content, what in files:
            (tmp_path / f"{version}-{name}.pt").write_bytes(content)
            expected[f"{version}-{name}"] = what
    expected |= others(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outcome = outcomes("load", tmp_path, [*good, *libraries])
    check(tmp_path, outcome, expected)
    assert len(outcome) > 150
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("harmed").exists()


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_the_commands_say_the_same(tmp_path, good, command):
    files = {
        "architecture": forged({"architecture": "os.system"}),
        "huge": forged(dict(zip(("architecture", "arguments"), HUGE[0], strict=True))),
    }
    files |= {"file": forged({"architecture": TIMM, "arguments": {"checkpoint_path": "/etc/passwd"}})}
    files |= {"code": first_format(harm=Harm()), "memory": first_format(harm=Callable(bytearray, 10**13))}
    expected = {"architecture": UNKNOWN, "huge": LARGER, "file": "it has no 'checkpoint_path'"}
    expected |= dict.fromkeys(("code", "memory"), "is damaged or holds more than plain data and tensors")
    for name, content in files.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "picture.png")
    os.mkfifo(tmp_path / "fifo.pt")
    check(
        tmp_path, outcomes(command, tmp_path, good), expected | {"fifo": "is not a regular file; one is needed"}, TYPERS
    )
    assert not list(tmp_path.glob("results/*"))
    assert not (tmp_path / "explain.png").exists()
