"""`ecompile serve`: a network, and the modules of its segments, behind the Open Inference Protocol on this machine.

The same code as a serving pod's, without an operator: what the operator and the cluster would give it (plan, trust,
routing table) is made here, in a directory that ends with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ecompile_crds.errors import Code, DataError, ModelError
from ecompile_crds.hybridmodel import Analysis
from ecompile_crds.names import ROUTING_KEY, SIGNING_PUBLIC_KEY
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute

from ..codegen.bundle import read_bundle
from ..codegen.signing import load_public
from ..data import store
from ..hybrid.life import LocalLife, LocalModel, read_network
from ..serving.settings import Settings
from .packages import read_bytes

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What the command line says."""

    source: Path
    bundles: tuple[Path, ...] = ()
    key: Path | None = None
    calibration: str | None = None
    artifacts: Path
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = 8081
    mode: RouteMode = RouteMode.COMPILED
    weight: float = 1.0
    compare: float = Analysis().compare


def prepare(options: ServeOptions, directory: Path, say: Say) -> Settings:
    """Write plan, trust and routing table into `directory`; the settings of a pod that serves them.

    Raises an EcompileError where a file cannot be used, or a bundle is not of this network.
    """
    model = read_network(options.source, options.calibration, None, options.artifacts)
    plan = _profile(model, directory, say)
    routes = _routes(options, plan)
    (directory / "trust").mkdir()
    if options.key is not None:
        (directory / "trust" / SIGNING_PUBLIC_KEY).write_bytes(options.key.read_bytes())
    table = RoutingTable(
        namespace=plan.namespace, model=plan.model, life=plan.life, generation=1, segments=tuple(routes)
    )
    (directory / ROUTING_KEY).write_text(table.model_dump_json(by_alias=True))
    return Settings(
        namespace=plan.namespace,
        model=plan.model,
        life=plan.life,
        plan_uri=f"file://{directory}/plan.json",
        artifacts_uri=f"file://{directory}",
        control_address="",
        control_server_name="",
        analysis=Analysis(),
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        pod="local",
        trust_dir=directory / "trust",
        token_file=directory / "token",
        routing_dir=directory,
        state_dir=options.artifacts / "local" / model.name / "state",
    )


def _profile(model: LocalModel, directory: Path, say: Say) -> Plan:
    """The plan, with its files, in `directory`."""
    say("profile")
    run = LocalLife(model)
    plan = run.plan(run.profile())
    if model.synthetic:  # made-up rows say nothing about the stability of real ones, nor how these look
        nothing = {"stability": None, "reference": None}
        plan = plan.model_copy(update={"segments": tuple(s.model_copy(update=nothing) for s in plan.segments)})
    names = {plan.neural.path, *(segment.neural.path for segment in plan.segments)}
    names |= {segment.reference.path for segment in plan.segments if segment.reference is not None}
    for name in sorted(names):
        (directory / name).write_bytes(run.plan_file(name))
    (directory / "plan.json").write_text(plan.model_dump_json(by_alias=True))
    return plan


def _routes(options: ServeOptions, plan: Plan) -> list[SegmentRoute]:
    """One route per bundle, after its signature, its network and its segment were checked."""
    if not options.bundles:
        return []
    if options.key is None:
        raise DataError(
            Code.SPEC_INVALID, "give the public key that the bundles are signed with: --key signing.pub (PEM)."
        )
    keys = [load_public(read_bytes(options.key))]
    routes: dict[int, SegmentRoute] = {}
    for path in options.bundles:
        content = read_bytes(path)
        bundle = read_bundle(content, keys)
        segment, source = bundle.meta.get("segment"), bundle.meta.get("sourceDigest")
        if source != plan.source_digest or not isinstance(segment, int) or not 0 <= segment < len(plan.segments):
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"{path} was made for segment {segment} of the network {str(source)[:19]}..., and {options.source} is "
                f"{plan.source_digest[:19]}... with {len(plan.segments)} segments: give the network it was made from.",
            )
        if segment in routes:
            raise DataError(Code.SPEC_INVALID, f"{path}: another bundle for segment {segment} was given already.")
        routes[segment] = SegmentRoute(
            segment=segment,
            mode=options.mode,
            weight=options.weight if options.mode is RouteMode.CANARY else 0.0,
            compare=options.compare,
            module=path.stem,
            bundle_uri=f"file://{path.resolve()}",
            bundle_digest=store.digest_of(content),
        )
    return [routes[segment] for segment in sorted(routes)]


def serve(options: ServeOptions, say: Say) -> int:
    """Serve until a signal; the exit status."""
    import uvloop

    from ..serving import logs
    from ..serving.pod import serve as run_pod

    logs.configure(text=True)
    with tempfile.TemporaryDirectory(prefix="ecompile-serve-") as name:
        settings = prepare(options, Path(name), say)
        grpc = f", gRPC {options.host}:{options.grpc_port}" if options.grpc_port is not None else ""
        say(f"serving {settings.model}: http://{options.host}:{options.port}/v2/models/{settings.model}/infer{grpc}")
        return uvloop.run(run_pod(settings))
