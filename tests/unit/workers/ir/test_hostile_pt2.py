"""Archives that are broken, hostile or beyond us: nothing of them runs, and each is refused with a sentence."""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from ecompile_crds.errors import Code, ModelError
from ecompile_workers.ir.interpreter import run
from ecompile_workers.ir.load import load_source
from ecompile_workers.ir.pt2_importer import import_archive
from ecompile_workers.ir.torch_importer import import_exported, import_module
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from .checks import assert_close, onnx_runtime, rows_for

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


def export(path: Path, module: nn.Module, *shape: int, dynamic: bool = True) -> Path:
    example = torch.randn(2 if dynamic else 1, *shape)
    dims = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=dims), path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return export(tmp_path_factory.mktemp("pt2") / "net.pt2", module, 3)


class Layers(nn.Module):
    """One of most kinds of call."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.conv = nn.Conv1d(6, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, (h, _) = self.lstm(x)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        a, b = self.conv(y.transpose(1, 2)).chunk(2, 1)
        return torch.cat([a.mean(-1), b[..., -1], h[0], torch.zeros(x.shape[0], 1)], 1)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("layers") / "net.pt2", Layers(), 5, 4)


def altered(archive: Path, target: Path, changes: dict[str, Callable[[bytes], bytes | None]]) -> Path:
    """A copy with some entries changed; None drops an entry."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            change = changes.get(name.split("/", 1)[1])
            content = source.read(name) if change is None else change(source.read(name))
            if content is not None:
                copy.writestr(name, content)
    return target


def edited(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def run_edit(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return run_edit


def first_weight(**changes: Any) -> Callable[[bytes], bytes]:
    def change(document: Any) -> None:
        entry = next(iter(document["config"].values()))
        for key, value in changes.items():
            (entry["tensor_meta"] if key in entry["tensor_meta"] else entry)[key] = value

    return edited(change)


def operator_named(target: str) -> Callable[[bytes], bytes]:
    def change(document: Any) -> None:
        document["graph_module"]["graph"]["nodes"][1]["target"] = target

    return edited(change)


def sizes(*values: int) -> list[dict[str, int]]:
    return [{"as_int": v} for v in values]


NAN = b"\x00\x00\xc0\x7f"
REFUSED: dict[str, tuple[dict[str, Callable[[bytes], bytes | None]], Code, str]] = {
    "no graph": ({GRAPH: lambda content: None}, Code.MODEL_MALFORMED, "models/model.json is missing"),
    "graph is no JSON": ({GRAPH: lambda content: content[:99]}, Code.MODEL_MALFORMED, "damaged"),
    "deep JSON": ({GRAPH: lambda content: b"[" * 200_000}, Code.MODEL_MALFORMED, "damaged"),
    "newer schema": (
        {GRAPH: edited(lambda d: d["schema_version"].update(major=99))},
        Code.MODEL_UNSUPPORTED,
        "schema 99, newer than 8",
    ),
    "pickled weight": ({WEIGHTS: first_weight(use_pickle=True)}, Code.MODEL_UNSAFE, "is pickled"),
    "weight elsewhere": ({WEIGHTS: first_weight(path_name="../x")}, Code.MODEL_UNSAFE, "outside the archive"),
    "weight too short": (
        {"data/weights/weight_0": lambda content: content[:-4]},
        Code.MODEL_MALFORMED,
        "weight 0.weight is truncated",
    ),
    "weight is missing": ({"data/weights/weight_0": lambda content: None}, Code.MODEL_MALFORMED, "weight_0 is missing"),
    "weight of NaN": (
        {"data/weights/weight_0": lambda content: NAN + content[4:]},
        Code.MODEL_MALFORMED,
        "weight 0.weight has values that are not finite",
    ),
    "weight with negative steps": (
        {WEIGHTS: first_weight(strides=sizes(-3, 1))},
        Code.MODEL_MALFORMED,
        "truncated",
    ),
    "weight of a terabyte without steps": (
        {WEIGHTS: first_weight(sizes=sizes(1 << 20, 1 << 20), strides=sizes(0, 0))},
        Code.MODEL_UNSAFE,
        "too large",
    ),
    "unknown operator": (
        {GRAPH: operator_named("torch.ops.aten.erfinv.default")},
        Code.MODEL_UNSUPPORTED,
        "aten.erfinv.default .* export the model to ONNX",
    ),
    "operator of a library": (
        {GRAPH: operator_named("torch.ops.acme.magic.default")},
        Code.MODEL_UNSUPPORTED,
        "acme.magic.default",
    ),
    "control flow": (
        {GRAPH: operator_named("torch.ops.higher_order.cond")},
        Code.MODEL_UNSUPPORTED,
        "higher_order.cond is control flow",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_with_a_sentence(name: str, archive: Path, tmp_path: Path) -> None:
    changes, code, text = REFUSED[name]
    path = altered(archive, tmp_path / "net.pt2", changes)
    with pytest.raises(ModelError, match=text) as caught:
        load_source(path)
    assert caught.value.code is code
    assert caught.value.message.startswith("net.pt2: ")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(60)])
def test_foreign_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a readable") as caught:
        import_archive(path)
    assert caught.value.code is Code.MODEL_MALFORMED


def test_truncated_archives_are_refused(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    path = tmp_path / "net.pt2"
    for end in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:end])
        with pytest.raises(ModelError):
            import_archive(path)


@settings(max_examples=60, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
@given(random=st.randoms(use_true_random=False))
def test_damaged_calls_are_refused_or_read(random: Random, layers: Path, tmp_path_factory: Any) -> None:
    """Arguments and targets exchanged at random: a graph or a ModelError, nothing else."""

    def change(document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        arguments = [each["arg"] for node in nodes for each in node["inputs"]]
        odd = [{"as_int": -5}, {"as_int": 10**12}, {"as_none": True}, {"as_ints": []}, {"as_float": float("nan")}]
        for _ in range(random.randint(1, 3)):
            node = random.choice([n for n in nodes if n["inputs"]])
            match random.randrange(4):
                case 0:
                    node["target"] = random.choice(nodes)["target"]
                case 1:
                    node["inputs"].pop(random.randrange(len(node["inputs"])))
                case _:
                    random.choice(node["inputs"] or [{}])["arg"] = random.choice([*arguments, *odd])

    path = tmp_path_factory.mktemp("damaged") / "net.pt2"
    with contextlib.suppress(ModelError):
        import_archive(altered(layers, path, {GRAPH: edited(change)}))


def test_dynamic_sizes_are_refused(tmp_path: Path) -> None:
    dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("width")},)
    exported = torch.export.export(nn.ReLU(), (torch.randn(2, 3),), dynamic_shapes=dims)
    torch.export.save(exported, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="a dimension besides the batch is dynamic; export with it fixed"):
        import_archive(tmp_path / "net.pt2")


class Payload:
    """Unpickling this creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_nothing_is_unpickled_or_evaluated(archive: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    expression = f"__import__('pathlib').Path({str(witness)!r}).mkdir()"

    def symbols(document: Any) -> None:
        for meta in document["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = expression

    changes: dict[str, Callable[[bytes], bytes | None]] = {
        "data/sample_inputs/model.pt": lambda content: pickle.dumps(Payload(witness)),
        GRAPH: edited(symbols),
    }
    graph = import_archive(altered(archive, tmp_path / "net.pt2", changes))
    assert graph.output.shape == (2,)
    assert not witness.exists()


def test_archive_and_live_module_give_the_same_graph(archive: Path) -> None:
    exported = torch.export.load(archive)
    graphs = [import_archive(archive), import_exported(exported)]
    x = rows_for(graphs[0], 5, seed=0)
    assert [n.op for n in graphs[0].nodes] == [n.op for n in graphs[1].nodes]
    assert_close(run(graphs[0], x), run(graphs[1], x), 0)
    assert_close(run(graphs[0], x), exported.module()(torch.from_numpy(x)).detach().numpy())


def test_batch_of_one_becomes_symbolic(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    source = load_source(export(tmp_path / "static.pt2", module, 1, 4, 4, dynamic=False))
    x = rows_for(source.graph, 6, seed=0)
    assert_close(onnx_runtime(source.neural, x), module(torch.from_numpy(x)).detach().numpy())


def test_batch_of_one_that_is_merged_with_heads_becomes_symbolic(tmp_path: Path) -> None:
    """torch's encoder layer puts the sequence first and merges its heads with the batch."""
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    source = load_source(export(tmp_path / "static.pt2", module, 5, 8, dynamic=False))
    x = rows_for(source.graph, 4, seed=0)
    assert_close(onnx_runtime(source.neural, x), module(torch.from_numpy(x)).detach().numpy())


class InPlace(nn.Module):
    """Reads what was changed in place under its old name, or through a view taken before."""

    def __init__(self, *, through_view: bool) -> None:
        super().__init__()
        self.through_view = through_view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        view = y.view(-1, 3)
        torch.relu_(y)
        y.add_(1)
        return view + y if self.through_view else y * y


def test_operators_in_place_change_what_is_read_later() -> None:
    x = torch.randn(4, 3)
    module = InPlace(through_view=False)
    graph = import_module(module, x, name="in_place")
    assert_close(run(graph, x.numpy()), module(x).numpy())


def test_views_of_what_is_changed_in_place_are_refused() -> None:
    with pytest.raises(ModelError, match="view is used after an operator changed its memory in place"):
        import_module(InPlace(through_view=True), torch.randn(4, 3), name="in_place")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_named(dtype: torch.dtype, tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, dtype=dtype))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ModelError, match=f"scale .*({kind}|element type).*[Cc]onvert the model to float32"):
        import_archive(export(tmp_path / "mixed.pt2", Mixed(), 3))


def test_module_that_torch_cannot_export_is_a_sentence() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(ModelError, match="branches: torch cannot export") as caught:
        import_module(Branches(), torch.randn(2, 3), name="branches")
    assert caught.value.code is Code.MODEL_UNSUPPORTED
