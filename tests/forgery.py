"""Checkpoints made by hand, whose checksums are right whatever else is wrong, and what happens when they are read."""

import functools
import hashlib
import json
import struct
import subprocess
import sys

import torch

from part_plugin.adapters.robustbench import build_model

ARCHITECTURE = "robust_wide_resnet.RobustWideResNet"
ARGUMENTS = {"channel_configs": [4, 4, 8, 8], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]}
DESCRIPTION = {
    "architecture": ARCHITECTURE,
    "arguments": ARGUMENTS,
    "num_classes": 10,
    "mean": None,
    "std": None,
    "training": {},
    "versions": {},
}
CODES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32"}


@functools.cache
def _network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(ARCHITECTURE, ARGUMENTS).eval()


def weights():
    """Those of DESCRIPTION's network."""
    return {name: tensor.detach() for name, tensor in _network().state_dict().items()}


def entries_and_data(tensors):
    entries, data = {}, b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        entries[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += content
    return entries, data


def sealed(text, entries, data, *, version=2, more_metadata=""):
    """The bytes of a file of format 2, of the JSON of a description and of all entries, both without their braces.

    Written after the format's description, without its code.
    """
    zeros, data_digest = "0" * 64, hashlib.sha256(data).hexdigest()

    def header(digest):
        start = f'{{"format":{version},"sha256":"{digest}","data_sha256":"{data_digest}",'
        whole = f'{{"__metadata__":{{"part_plugin":{json.dumps(start + text + "}")}{more_metadata}}},{entries}}}'
        content = whole.encode("utf-8", "surrogateescape")
        return content + b" " * (-len(content) % 8)

    content = header(hashlib.sha256(header(zeros)).hexdigest())
    return struct.pack("<Q", len(content)) + content + data


def forged(changes=None, tensors=None, *, text=None, entries=None, data=None, without=(), **options):
    """A file of format 2 that differs from a good one in what is given."""
    description = {name: value for name, value in (DESCRIPTION | (changes or {})).items() if name not in without}
    made, its_data = entries_and_data(weights() if tensors is None else tensors)
    text = json.dumps(description)[1:-1] if text is None else text
    return sealed(
        text, json.dumps(made)[1:-1] if entries is None else entries, its_data if data is None else data, **options
    )


_PROBE = """
import json, os, resource, socket, stat, sys, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
what, folder, good = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
import part_plugin.recipes.checkpoints as checkpoints
if what == "load":
    use = checkpoints.load_checkpoint
else:
    from part_plugin import cli
    class Told(Exception):
        pass
    def use(path):
        sys.argv = ["part-plugin", what, str(path)]
        sys.argv += ["--dataset", "digits", "--n", "2", "--attacks", "natural", "--out", str(folder / "results")] * (
            what == "evaluate")
        sys.argv += [str(folder / "picture.png"), "--out", str(folder / "explain.png"), "--size", "8"] * (
            what == "explain")
        import contextlib, io
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            try:
                cli.main()
            except SystemExit as error:
                if error.code:
                    raise Told(error.code, told.getvalue())
for path in good:  # everything that is imported when first used is now
    use(path)
    for name in ("results", "explain.png"):
        where = folder / name
        for file in (where.iterdir() if where.is_dir() else [where] if where.exists() else []):
            file.unlink()
events, watched = [], False
def hook(event, arguments):
    if watched:
        events.append([event, [str(one)[:200] for one in arguments[:3]]])
sys.addaudithook(hook)
for path in sorted(folder.glob("*.pt")):
    events.clear()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    watched = True
    try:
        use(path)
        outcome = ["nothing", ""]
    except BaseException as error:
        outcome = [type(error).__name__, str(error) if what == "load" else error.args[1]]
        code = getattr(error, "args", [None])[0]
    watched = False
    seconds = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([path.stem, *outcome, seconds, grown, events]))
"""


def outcomes(what, folder, good):
    """{name: (type of the error, its text, CPU seconds, KiB of memory, audit events)} for each NAME.pt in a folder.

    In a process of its own, after `good` files have been read: `what` is "load", "evaluate" or "explain".
    """
    command = [sys.executable, "-c", _PROBE, what, str(folder), *map(str, good)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {name: tuple(rest) for name, *rest in map(json.loads, done.stdout.splitlines())}
