"""`ecompile`: every command, its arguments, and what an error looks like: one sentence and an exit status."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecompile_crds import audit as chain
from ecompile_crds.errors import EcompileError

from .tracing import add_trace_commands

if TYPE_CHECKING:
    from ..distill.costs import CostModel
    from ..ir.segments import Segment

VERSION = "0.1.0"
DEFAULT_ARTIFACTS = Path(".ecompile") / "artifacts"


def say(text: str) -> None:
    """Progress, on standard error so that --json stays clean."""
    print(text, file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace) -> int:
    from ..hybrid.life import read_network
    from .local import LocalRun, read_manifest

    if arguments.file.suffix == ".eco":
        from .packages import run_command

        if arguments.input is None:
            say("ecompile run: give the rows with --input x.npy, and -o y.npy for the outputs.")
            return 2
        return run_command(arguments.file, arguments.input, arguments.output, key=arguments.key, as_json=arguments.json)
    if not arguments.local:
        say("ecompile run: give --local; in a cluster, use kubectl apply.")
        return 2
    if arguments.file.suffix in (".yaml", ".yml"):
        model = read_manifest(arguments.file, arguments.artifacts, say)
    else:
        model = read_network(arguments.file, arguments.calibration, arguments.held_out, arguments.artifacts)
    report = LocalRun(model, say).run()
    if arguments.json:
        print(json.dumps(asdict(report), indent=1))
        return 0
    print(f"\n{report.model}")
    if report.synthetic_calibration:
        print("  synthetic calibration: no data was given, so seeded random rows stood in; give --calibration")
    for segment in report.segments:
        print(f"  {segment['name']}: {segment['outcome']}, {segment['macs']} multiply-adds")
        for key in ("reason", "evidence", "speedup", "delta", "correlation", "maxDeviation", "validation"):
            if segment.get(key) not in (None, ""):
                print(f"    {key:<14} {segment[key]}")
    for step in report.rollout:
        print(f"  {step['step']:<13} {'Pass' if step['passed'] else 'Fail'}  {step['detail']}")
    if report.bundles:
        print(f"\n  serve it: ecompile serve {' '.join(report.bundles)} --key {report.key} --source {report.source}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from ecompile_crds.routing import RouteMode

    from .serve import ServeOptions, serve

    return serve(
        ServeOptions(
            source=arguments.source,
            bundles=tuple(arguments.bundles),
            key=arguments.key,
            calibration=arguments.calibration,
            artifacts=arguments.artifacts,
            host=arguments.host,
            port=arguments.port,
            grpc_port=arguments.grpc_port or None,
            mode=RouteMode(arguments.mode),
            weight=arguments.weight,
            compare=arguments.compare,
        ),
        say,
    )


def _top(arguments: argparse.Namespace) -> int:
    from .top import top

    return top(arguments.pods, interval_seconds=arguments.interval, once=arguments.once, show=print)


def _profile(arguments: argparse.Namespace) -> int:
    from ..codegen.support import obstacle
    from ..distill.calibrate import cost_model
    from ..ir.load import load_source
    from ..ir.segments import split

    graph = load_source(arguments.file).graph
    costs = cost_model() if arguments.predict else None
    segments: list[dict[str, Any]] = [
        {
            "name": s.name,
            "compilable": s.compilable,
            "reason": s.reason,
            "macs": s.graph.macs,
            **({"predictedMicroseconds": _predicted(costs, s)} if costs is not None else {}),
        }
        for s in split(graph, obstacle, costs)
    ]
    if arguments.json:
        print(json.dumps(segments, indent=1))
        return 0
    for segment in segments:
        what = "can be compiled" if segment["compilable"] else f"stays neural: {segment['reason']}"
        predicted = segment.get("predictedMicroseconds")
        told = f", predicted {predicted:g} us a row" if predicted is not None else ""
        print(f"{segment['name']}: {segment['macs']} multiply-adds{told}, {what}")
    return 0


def _predicted(costs: CostModel, segment: Segment) -> float:
    """Of compiled code where it can be compiled, of ONNX Runtime elsewhere."""
    side = costs.compiled_seconds if segment.compilable else costs.neural_seconds
    return round(side(segment.graph) * 1e6, 3)


def _inspect(arguments: argparse.Namespace) -> int:
    from ..codegen.bundle import read_bundle
    from ..codegen.signing import load_public
    from ..hybrid.package import is_package
    from .packages import open_package, read_bytes, show

    content = read_bytes(arguments.file)
    if is_package(content, name=str(arguments.file)):
        show(open_package(arguments.file, arguments.key), as_json=arguments.json)
        return 0
    if arguments.key is None:
        say("ecompile inspect: give the public key that the bundle is signed with: --key signing.pub.")
        return 2
    bundle = read_bundle(content, [load_public(read_bytes(arguments.key))])
    meta = {k: v for k, v in bundle.meta.items() if k != "guard"}
    files = {name: len(content) for name, content in sorted(bundle.files.items())}
    print(json.dumps({**meta, "digest": bundle.digest, "files": files}, indent=1))
    return 0


def _compile(arguments: argparse.Namespace) -> int:
    from .packages import compile_command

    return compile_command(
        arguments.source,
        arguments.output or arguments.source.with_suffix(".eco"),
        calibration=arguments.calibration,
        held_out=arguments.held_out,
        key=arguments.key,
        min_speedup=arguments.min_speedup,
        targets=arguments.targets,
        strategies=arguments.strategies,
        max_deviation=arguments.max_deviation,
        max_relative_error=arguments.max_relative_error,
        as_json=arguments.json,
        say=say,
    )


def _verify(arguments: argparse.Namespace) -> int:
    from .packages import verify_command

    return verify_command(arguments.file, arguments.source, key=arguments.key, as_json=arguments.json)


def _bench(arguments: argparse.Namespace) -> int:
    import numpy as np
    from ecompile_crds.errors import Code, DataError

    from ..data.store import digest_of
    from ..hybrid.opponents import OPPONENTS, bench
    from .packages import open_package, read_bytes, read_rows

    package = open_package(arguments.file, arguments.key)
    if arguments.source is not None and digest_of(read_bytes(arguments.source)) != package.manifest.source_digest:
        raise DataError(Code.DATA_DIGEST_MISMATCH, f"{arguments.source} is not what {arguments.file} was made from.")
    unknown = sorted(set(arguments.against.split(",")) - set(OPPONENTS))
    if unknown:
        say(f"ecompile bench: --against: {unknown[0]} is not one of {', '.join(OPPONENTS)}.")
        return 2
    plan = package.plan
    integers = [each.name for each in plan.network_inputs if each.datatype != "FP32"]
    if arguments.input is None and integers:
        say(f"ecompile bench: input {integers[0]} takes whole numbers of a meaning: give rows with --input.")
        return 2
    given = read_rows(arguments.input, plan) if arguments.input is not None else None
    rows = []
    for batch in arguments.batch:
        x = np.random.default_rng(0).normal(size=(batch, plan.input.size)).astype(np.float32)
        if given is not None:
            x = np.resize(given, x.shape).astype(np.float32)
        rows += bench(package, x, arguments.against.split(","))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    for row in rows:
        print(
            f"batch {row.batch:<4} ours {row.ours} us (+-{row.ours_spread})  {row.peer} {row.peer_value} us "
            f"(+-{row.peer_spread})  {row.ratio}x  max error {row.max_error:.1e}"
        )
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from ..governance import audit

    records = audit.read(arguments.file)
    chain.verify(records, head=arguments.head)
    if arguments.json:
        print(json.dumps([r.model_dump(by_alias=True) for r in records], indent=1))
        return 0
    for r in records:
        print(f"{r.sequence:>4} {r.time} {r.model} segment {r.segment}: {r.before} -> {r.after} ({r.reason})")
    print(f"{len(records)} records, chain intact, head {records[-1].hash if records else chain.GENESIS}")
    return 0


def _emit(arguments: argparse.Namespace) -> int:
    from .emit import emit_command

    return emit_command(
        arguments.source,
        arguments.output,
        languages=arguments.languages,
        levels=arguments.levels,
        as_json=arguments.json,
    )


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(prog="ecompile", description="Hybrid models: networks with verified compiled parts.")
    top.add_argument("--version", action="version", version=f"ecompile {VERSION}")
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, about: str, function: object) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.add_argument("--json", action="store_true", help="machine-readable output")
        found.set_defaults(function=function)
        return found

    make = add("compile", "a network as one file: code where it pays, the original elsewhere", _compile)
    make.add_argument("source", type=Path, help=".onnx or .pt2")
    make.add_argument("--calibration", help=".npz with input rows (file.npz or file.npz#array)")
    make.add_argument("--held-out", help=".npz with rows not used for calibration")
    make.add_argument("-o", "--output", type=Path, help="where to write; by default the source's name with .eco")
    make.add_argument("--key", type=Path, help="ed25519 private key (PEM) to sign with; by default one is made")
    make.add_argument("--min-speedup", type=float, help="a module must beat ONNX Runtime by this factor")
    make.add_argument("--targets", nargs="+", metavar="LEVEL", help="x86-64-v2, x86-64-v3, x86-64-v4")
    make.add_argument(
        "--strategies",
        nargs="+",
        metavar="NAME",
        help="what is tried for each segment: fold, exact, regions, lowrank, deadunits, symbolic; default: fold exact",
    )
    make.add_argument("--max-deviation", type=float, help="as spec.equivalence.maxDeviation; default 1e-4")
    make.add_argument("--max-relative-error", type=float, help="as spec.equivalence.maxRelativeError; default 1e-3")
    write = add("emit", "a network as source code: C with vectors, Rust or typed Python", _emit)
    write.add_argument("source", type=Path, help=".onnx or .pt2")
    write.add_argument("-o", "--output", type=Path, required=True, help="folder; each language gets one in it")
    write.add_argument(
        "--languages", nargs="+", default=["c", "rust", "python"], metavar="NAME", help="c, rust, python"
    )
    write.add_argument(
        "--levels", nargs="+", metavar="LEVEL", help="C: x86-64-v2, -v3, -v4, arm64, wasm32; by default all"
    )
    check = add("verify", "check every claim of a package against the network it was made from", _verify)
    check.add_argument("file", type=Path, help="model.eco")
    check.add_argument("--source", type=Path, required=True, help="the network")
    check.add_argument("--key", type=Path, help="trusted ed25519 public key (PEM); by default the package's own")
    measure = add("bench", "a package against other ways to run its network, on this machine", _bench)
    measure.add_argument("file", type=Path, help="model.eco")
    measure.add_argument("--source", type=Path, help="the network, to check that it is the same")
    measure.add_argument("--against", default="onnxruntime,openvino", help="comma-separated: onnxruntime, openvino")
    measure.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="rows per call")
    measure.add_argument("--input", type=Path, help=".npy, or .npz by input; by default seeded normal rows")
    measure.add_argument("--key", type=Path, help="trusted ed25519 public key (PEM); by default the package's own")
    run = add("run", "a package on rows; or the life of a HybridModel or a network, without a cluster", _run)
    run.add_argument("file", type=Path, help="model.eco, HybridModel YAML, .onnx or .pt2")
    run.add_argument("--input", type=Path, help="model.eco: .npy with rows, or .npz by input")
    run.add_argument("-o", "--output", type=Path, default=Path("y.npy"), help="model.eco: .npy, or .npz by output")
    run.add_argument("--key", type=Path, help="model.eco: trusted ed25519 public key (PEM)")
    run.add_argument("--local", action="store_true", help="run on this machine")
    run.add_argument("--artifacts", type=Path, default=DEFAULT_ARTIFACTS, help="stands for file:///artifacts")
    run.add_argument("--calibration", help=".npz with input rows (file.npz or file.npz#array)")
    run.add_argument("--held-out", help=".npz with rows not used for calibration")
    about = "a network and its modules behind the Open Inference Protocol (REST and gRPC)"
    serve = commands.add_parser("serve", help=about, description=about)
    serve.set_defaults(function=_serve)
    serve.add_argument("bundles", type=Path, nargs="*", metavar="bundle", help="modules (.eco); none: the network only")
    serve.add_argument("--source", type=Path, required=True, help="the network that they were made from: .onnx or .pt2")
    serve.add_argument("--key", type=Path, help="trusted ed25519 public key (PEM) of the bundles")
    serve.add_argument("--calibration", help=".npz with input rows, for the stability in explanations")
    serve.add_argument("--artifacts", type=Path, default=DEFAULT_ARTIFACTS, help="where the crash journal is kept")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=8080, help="REST")
    serve.add_argument("--grpc-port", type=int, default=8081, help="gRPC; 0: none")
    serve.add_argument("--mode", choices=["compiled", "canary", "shadow"], default="compiled", help="of every module")
    serve.add_argument("--weight", type=_fraction, default=1.0, help="canary: share of requests the modules answer")
    serve.add_argument("--compare", type=_fraction, default=0.05, help="probability that a request is compared")
    about = "what serving pods do now, from their metrics"
    top_command = commands.add_parser("top", help=about, description=about)
    top_command.set_defaults(function=_top)
    top_command.add_argument("pods", nargs="+", metavar="pod", help="REST address of a pod, host:port")
    top_command.add_argument("--interval", type=float, default=2.0, help="seconds between two looks")
    top_command.add_argument("--once", action="store_true", help="show the figures of one interval and end")
    profile = add("profile", "how a network is cut, and what stays neural", _profile)
    profile.add_argument("file", type=Path)
    profile.add_argument(
        "--predict", action="store_true", help="by the cost model of this machine; measured once, then cached"
    )
    add_trace_commands(add)
    inspect = add("inspect", "contents of a package or a bundle, after its signature is checked", _inspect)
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--key", type=Path, help="trusted ed25519 public key (PEM); a bundle needs one")
    audit = add("audit", "check an audit log's hash chain", _audit)
    audit.add_argument("action", choices=["verify"])
    audit.add_argument("file", type=Path, help="audit.jsonl")
    audit.add_argument("--head", help="hash of the newest record, from the HybridModel's status.auditHead")
    return top


def main() -> None:
    """Entry point."""
    arguments = parser().parse_args()
    try:
        status: int = arguments.function(arguments)
    except EcompileError as error:
        say(f"ecompile {arguments.command}: [{int(error.code)}] {error.message}")
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(status)


if __name__ == "__main__":
    main()
