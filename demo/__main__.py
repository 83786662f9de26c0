"""`python -m demo`: one model's whole life on a real cluster, with figures measured in this run."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from devcluster import node
from devcluster.console import DevclusterError

from . import development
from .cast import Cast
from .cluster import ROOT, SYSTEM, Cluster, ClusterError, Manifest
from .images import TARGETS, name_of
from .life import Stage, run

KIND_NAME = "ecompile-demo"
CLAIM: Manifest = {"artifacts": {"pvc": {"namespaces": ["default"]}}}


def on_devcluster() -> Stage:
    """The development cluster, started where it is not running."""
    return Stage(
        cluster=development.start(),
        values=development.VALUES,
        worker_image=development.WORKER_IMAGE,
        pull_policy=development.PULL_POLICY,
        torch_from=development.TORCH_FROM,
        routed=True,
    )


def on_kind() -> Stage:
    """A new kind cluster with images built by Docker.

    Raises ClusterError where kind or Docker is not there.
    """
    _require("kind", "docker", "kubectl", "helm")
    _execute("kind", "create", "cluster", "--name", KIND_NAME)
    for target in TARGETS:
        _execute("docker", "build", "--target", target, "-t", name_of(target), str(ROOT))
        _execute("kind", "load", "docker-image", name_of(target), "--name", KIND_NAME)
    image = {"pullPolicy": "Never"}
    return Stage(
        cluster=Cluster(),
        values={**CLAIM, "image": image},
        worker_image=name_of("worker"),
        pull_policy="Never",
        torch_from=None,
        routed=False,
    )


def on_current(*, yes: bool, values: Path | None) -> Stage:
    """The user's current context, never without being told to.

    Raises ClusterError without --yes.
    """
    _require("kubectl", "helm")
    context = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True, check=False)
    if not yes:
        raise ClusterError(f"this would install into context {context.stdout.strip()!r}; add --yes to do so.")
    given: Manifest = yaml.safe_load(values.read_text()) if values is not None else {}
    image = given.get("image", {})
    return Stage(
        cluster=Cluster(),
        values={**CLAIM, **given},
        worker_image=image.get("worker", name_of("worker")),
        pull_policy=image.get("pullPolicy", "IfNotPresent"),
        torch_from=None,
        routed=False,
    )


def _require(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise ClusterError(f"{', '.join(missing)} must be on PATH for this; without them use --cluster devcluster.")


def _execute(*command: str) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise ClusterError(f"{' '.join(command[:4])} failed.")


def tear_down(cluster: str) -> None:
    """Remove what this run made: the whole cluster; from the user's own cluster, nothing that holds data."""
    if cluster == "devcluster":
        node.down()
    elif cluster == "kind":
        _execute("kind", "delete", "cluster", "--name", KIND_NAME)
    else:
        Cluster().kubectl("delete", "hm/digits", "job/digits-train", "pod/artifacts-shell", "--ignore-not-found")
        print(f"demo: the operator stays; to remove it: helm uninstall ecompile -n {SYSTEM}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--cluster", choices=("devcluster", "kind", "current"), default="devcluster")
    parser.add_argument("--yes", action="store_true", help="install into the current context")
    parser.add_argument("--values", type=Path, help="chart values for --cluster current: your registry's images")
    parser.add_argument("--record", type=Path, help="write the run as an asciinema recording")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    cast = Cast()
    stage = None
    try:
        match chosen.cluster:
            case "devcluster":
                stage = on_devcluster()
            case "kind":
                stage = on_kind()
            case _:
                stage = on_current(yes=chosen.yes, values=chosen.values)
        figures = run(stage, cast)
    except (ClusterError, DevclusterError, KeyboardInterrupt) as error:
        print(f"demo: failed: {error or 'interrupted'}", file=sys.stderr)
        if stage is not None and chosen.cluster == "devcluster":
            print(f"demo: logs of everything: {development.collect_logs(stage.cluster)}", file=sys.stderr)
        elif stage is not None:
            print(f"demo: see kubectl -n {SYSTEM} logs deployment/ecompile-operator", file=sys.stderr)
        status = 1
    else:
        width = max(map(len, figures))
        cast.say("\n".join(["", "measured in this run", *(f"  {n:<{width}}  {v}" for n, v in figures.items())]))
        if chosen.record is not None:
            cast.write(chosen.record)
        status = 0
    if stage is not None and not chosen.keep:
        tear_down(chosen.cluster)
    return status


if __name__ == "__main__":
    sys.exit(main())
