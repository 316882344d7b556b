"""Any model in: weights of the user's own network, TorchScript and torch.export programs, told by content and safe."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hint_cases import robcal as command
from model_files import CODE, Touch, export, in_graph, network, onnx, rewrite, save_data, saved, script
from safetensors.torch import save_file
from torch import nn

import robcal
from robcal.base.checks import InputError
from robcal.data import load_dataset
from robcal.models import external
from robcal.models.file_kinds import kind_of_file
from robcal.models.programs import load_program
from robcal.models.weights import load_weights, read_weights
from robcal.runs.any_model import open_any
from robcal.runs.model_audit import audit_model


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code and data of a user's own, which is the working directory; nothing is admitted."""
    (tmp_path / "own_model.py").write_text(CODE)
    save_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    monkeypatch.setattr(external, "_admitted", {})
    monkeypatch.setenv(external.TRUSTED, "")
    return tmp_path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in every kind of file, each with a suffix that says nothing."""
    folder, net = tmp_path_factory.mktemp("files"), network()
    wrapped = {f"module.model.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save(net.state_dict(), folder / "a.bin")
    torch.save({"state_dict": wrapped, "epoch": 3}, folder / "b.onnx")
    torch.save(net.state_dict(), folder / "c.pt2", _use_new_zipfile_serialization=False)
    save_file(net.state_dict(), folder / "d.pt")
    return {
        "onnx": onnx(net, folder / "g.bin"),
        "state_dict": folder / "a.bin",
        "checkpoint": folder / "b.onnx",
        "old": folder / "c.pt2",
        "safetensors": folder / "d.pt",
        "torchscript": script(net, folder / "e.bin"),
        "pt2": export(net, folder / "f.bin"),
    }


def test_kinds_are_told_by_content(files: dict[str, Path], tmp_path: Path) -> None:
    kinds = {"checkpoint": "state_dict", "old": "state_dict"}
    assert {name: kind_of_file(file) for name, file in files.items()} == {name: kinds.get(name, name) for name in files}
    (tmp_path / "model.pt").write_bytes(b"\x80\x04K\x01.")
    assert kind_of_file(tmp_path / "model.pt") == "other"


@pytest.mark.parametrize("kind", ["state_dict", "checkpoint", "old", "safetensors"])
def test_weights_of_a_named_network(kind: str, files: dict[str, Path], own_code: Path) -> None:
    opened = open_any("own_model:net", weights=files[kind], data="npz:data.npz")
    x = torch.randn(5, 4)
    assert torch.equal(opened.network(x), network()(x))
    (note,) = opened.notes
    assert ("'module.model.'" in note) == (kind == "checkpoint")
    assert note.endswith("Inputs reach the network as they are: its normalisation is its own.")


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_programs(kind: str, files: dict[str, Path], own_code: Path) -> None:
    opened = open_any(str(files[kind]), data="npz:data.npz")
    x = torch.randn(5, 4)
    torch.testing.assert_close(opened.network(x), network()(x))
    other = {"torchscript": script, "pt2": export}[kind](network(1), own_code / "other")
    digests = [dict(model.named_buffers())["file_digest"] for model in (opened.network, load_program(other, kind))]
    assert not torch.equal(*digests)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--model", "own_model:net", "--weights", "{safetensors}"],
        ["--model", "{torchscript}"],
        ["--model", "{pt2}"],
    ],
)
def test_score_takes_any_model(words: list[str], files: dict[str, Path], own_code: Path) -> None:
    """The same distances as of the module itself."""
    named = [word.format(**files) for word in words]
    command("score", *named, "--data", "npz:data.npz", "--out", "s.parquet", "--method", "projection", "--quiet")()
    with np.load("data.npz") as data:
        expected = robcal.score(network(), data["x_test"], box=None, method="projection")
    found = robcal.load_scores("s.parquet")
    assert (found.prediction == expected.prediction).all()
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4)


def test_a_frozen_script_has_no_mode(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.script(network())).save(str(tmp_path / "frozen.pt"))
    program = load_program(tmp_path / "frozen.pt", "torchscript")
    scores = robcal.score(program, torch.randn(4, 4), box=None, method="first-order")
    assert np.isfinite(scores.distance).all()


def test_weights_from_before_pytorch_counted_batches_fit(tmp_path: Path) -> None:
    """PyTorch 0.4.1 began to keep `num_batches_tracked`; older files, as those of published ResNets, lack it."""
    torch.manual_seed(0)
    old, new = (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval() for _ in range(2))
    old[1].running_mean += 1.0
    tensors = {f"module.{name}": tensor for name, tensor in old.state_dict().items() if "num_batches" not in name}
    load_weights(new, tensors, Path("w.pt"))
    x = torch.randn(5, 4)
    torch.testing.assert_close(new(x), old(x), rtol=0, atol=0)
    del tensors["module.1.running_mean"]
    with pytest.raises(InputError, match=r"lacks 1\.running_mean;"):
        load_weights(new, tensors, Path("w.pt"))


def test_several_differences_are_told(tmp_path: Path) -> None:
    tensors = {"0.weight": torch.zeros(7, 4), "0.bias": torch.zeros(6), "head.bias": torch.zeros(3)}
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(net, tensors, Path("w.pt"))
    for told in (
        "the file lacks 2.weight, 2.bias",
        "the network has no head.bias",
        "0.weight is (7, 4) in the file and (6, 4) in the network",
    ):
        assert told in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("inside", [False, True])
def test_a_pickled_model_is_never_loaded(inside: bool, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    value = {"state_dict": {"0.weight": Touch(touched)}} if inside else Touch(touched)
    (tmp_path / "w.pt").write_bytes(saved(value))
    with pytest.raises(InputError, match="to unpickle them could run code"):
        read_weights(tmp_path / "w.pt")
    assert not touched.exists()


#: Whether torch writes programs as it does since 2.8.
NEW_FORMAT = importlib.util.find_spec("torch.export.pt2_archive") is not None
only_new = pytest.mark.skipif(not NEW_FORMAT, reason="torch before 2.8 writes programs in another form")

SIZE = "Symbol('s"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SIZE, "[__import__('os').mkdir('{touched}'), 1][1]*" + SIZE, "a size is"),
        (SIZE, "eval('1')*" + SIZE, "a size is"),
        ("torch.ops.aten.relu.default", "torch.serialization.os.mkdir", "it calls 'torch.serial"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default", "it calls 'torch.ops.aten.from"),
        ('\\"builtins.tuple\\"', '\\"collections.defaultdict\\"', "an input is a collections.default"),
        ('"name": "relu"', '"name": "relu\\nimport os"', "is no name"),
        pytest.param('"guards_code": []', "\"guards_code\": [\"open('{touched}', 'w')\"]", "a size is", marks=only_new),
    ],
)
def test_crafted_programs_are_refused(old: str, new: str, message: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Each runs code when torch.export.load reads it, or when the graph is made a module."""
    touched = tmp_path / "touched"
    bad = rewrite(files["pt2"], tmp_path / "bad", in_graph(old, new.replace("{touched}", str(touched))))
    with pytest.raises(InputError, match=message):
        load_program(bad, "pt2")
    assert not touched.exists()


@only_new
@pytest.mark.parametrize("member", ["sample_inputs/model.pt", "model_constants_config.json", "weights_config.json"])
def test_pickles_in_exported_programs_are_not_opened(member: str, files: dict[str, Path], tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    payload = {"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}}}

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(member):
            return content
        return saved(Touch(touched)) if member.endswith(".pt") else json.dumps(payload).encode()

    with pytest.raises(InputError, match="pickle"):
        load_program(rewrite(files["pt2"], tmp_path / "bad", change), "pt2")
    assert not touched.exists()


@only_new
@pytest.mark.parametrize(
    ("member", "new", "message"),
    [
        ("weights/weight_0", b"", r"0.weight has \[6, 4\] numbers, of which none is stored"),
        ("data/sample_inputs/model.pt", b"0" * (1 << 28), "would"),
    ],
)
def test_programs_that_would_take_memory_are_refused(
    member: str, new: bytes, message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    bad = rewrite(files["pt2"], tmp_path / "bad", lambda name, old: new if name.endswith(member) else old, packed=True)
    assert bad.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=message):
        load_program(bad, "pt2")


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_changed_weight_does_not_fit_its_checksum(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(files[kind].read_bytes())
    at = content.find(network().state_dict()["0.weight"].numpy().tobytes())
    assert at > 0
    content[at + 2] ^= 1
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_program(tmp_path / "bad", kind)


class Writes(nn.Module):
    """Writes a file in place of predicting."""

    def __init__(self, file: Path, mapped: bool) -> None:
        super().__init__()
        self.file, self.mapped = str(file), mapped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mapped:
            return x + torch.from_file(self.file, True, 4)
        torch.save(x, self.file)
        return x


@pytest.mark.parametrize("mapped", [True, False])
def test_scripts_that_reach_for_files_are_refused(mapped: bool, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    file = script(Writes(touched, mapped), tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"it calls '(from_file|save)'"):
        load_program(file, "torchscript")
    assert not touched.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--model", "own_model:net", "--weights", "{state_dict}"],
        ["--model", "{torchscript}"],
        ["--model", "{pt2}"],
        ["--model", "{onnx}"],
    ],
)
def test_audit_takes_any_model(words: list[str], files: dict[str, Path], own_code: Path) -> None:
    """The same tables as from the arrays of the module's own predictions and margins."""
    named = [word.format(**files) for word in words]
    told = command("audit", *named, "--data", "npz:data.npz", "--levels", 3, "--resamples", 20, "--quiet")()
    with np.load("data.npz") as data:
        inputs, labels = torch.from_numpy(data["x_test"]), data["y_test"]
    with torch.no_grad():
        logits = network()(inputs).double()
    best = logits.topk(2).values
    expected = robcal.audit(
        logits.softmax(1), labels, scores=best[:, 0] - best[:, 1], score_name="logit margin", num_levels=3, resamples=20
    )
    table = expected.to_text(120).splitlines()
    rows = [line for line in table if re.match(r"\s*[012] ", line)]
    assert len(rows) >= 3
    assert all(row in told for row in rows), told


def test_outputs_are_what_the_user_says(own_code: Path) -> None:
    file = onnx(network(), own_code / "probs.onnx", probs=True)
    audit = ("audit", "--model", file, "--data", "npz:data.npz", "--levels", 2, "--resamples", 20, "--quiet")
    with pytest.raises(InputError, match="Pass --outputs probs"):
        command(*audit)()
    assert "logit margin" in command(*audit, "--outputs", "probs")()
    logits = onnx(network(), own_code / "logits.onnx")
    with pytest.raises(InputError, match="the model's outputs"):
        command("audit", "--model", logits, *audit[3:], "--outputs", "probs")()


def audited(part: nn.Module, own_code: Path) -> str:
    """What `robcal audit` says of a program exported in train mode, with a layer in its middle."""
    net = network()
    file = export(nn.Sequential(net[0], part, net[1], net[2]).train(), own_code / "train.pt2")
    words = ("audit", "--model", file, "--data", "npz:data.npz", "--levels", 2, "--resamples", 20, "--quiet")
    return str(command(*words)())


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (nn.Dropout(0.2), "other outputs for .* of 15 inputs when it is asked again.*eval mode"),
        (nn.BatchNorm1d(6), "depend on the other inputs of the batch.*eval mode"),
    ],
)
def test_programs_of_the_train_mode_are_not_audited(part: nn.Module, words: str, own_code: Path) -> None:
    with pytest.raises(InputError, match=words):
        audited(part, own_code)


def test_a_model_in_half_precision_is_audited(own_code: Path) -> None:
    """Its outputs round otherwise in another batch, which is no noise."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network().bfloat16()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.bfloat16()).float() * (1 + 1e-3 * len(x) / 30)

    found = audit_model(Half(), load_dataset("npz:data.npz"), num_levels=2, resamples=20)
    assert len(found.levels) == 2


def test_onnx_has_no_gradients(files: dict[str, Path], own_code: Path) -> None:
    with pytest.raises(InputError, match="is an ONNX model; gradients are taken"):
        command("score", "--model", files["onnx"], "--data", "npz:data.npz", "--out", "s.parquet")()
    broken = own_code / "broken.onnx"
    broken.write_bytes(files["onnx"].read_bytes()[:-40])
    with pytest.raises(InputError, match=r"the model broken.onnx cannot be read"):
        command("audit", "--model", "broken.onnx", "--data", "npz:data.npz")()


def test_onnx_needs_its_runtime(files: dict[str, Path], own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'robcal\[onnx\]'"):
        command("audit", "--model", files["onnx"], "--data", "npz:data.npz")()
