"""`python3 -m devcluster`: a development cluster from the command line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from . import addresses, api, build, images, namespaces, node, packages, paths
from .console import DevclusterError, say


def build_everything() -> None:
    """All that `up` needs, so that `up` takes seconds."""
    packages.install_packages()
    build.build_all()
    images.pause_archive()
    say(f"packages, binaries and the pause image are there; binaries are in {paths.BIN}")


def up() -> None:
    """Build what is missing and start the cluster; prints the kubeconfig's path."""
    node.require_root()
    build_everything()
    node.up()
    print(paths.KUBECONFIG)


def status() -> int:
    """Whether it runs, and how to talk to it; 1 where it is down, 3 where it runs but does not answer."""
    if not node.is_running():
        print("down")
        return 1
    print("up" if node.ready() else "running, but the API server does not answer")
    print(f"kubeconfig: {paths.KUBECONFIG}")
    print(f"node: {addresses.NODE} at {addresses.NODE_ADDRESS}, name service at {addresses.DNS_ADDRESS}")
    print(f"reachable from here: Services {addresses.SERVICE_RANGE}, pods {addresses.POD_RANGE}")
    print(f"logs: {paths.LOGS}")
    if not node.ready():
        return 3
    print(node.kubectl("get", "nodes,pods", "-A"), end="")
    return 0


def logs(*, lines: int, follow: bool) -> int:
    """The newest lines of each component's log."""
    found = sorted(paths.LOGS.glob("*.log"))
    if not found:
        raise DevclusterError(f"no logs in {paths.LOGS}: no cluster has been started since the last `down`.")
    say(f"logs are in {paths.LOGS}")
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, found)]
    return subprocess.run(command, check=False).returncode


def base_image() -> None:
    """Make the base image; prints its path."""
    packages.require(["mmdebstrap"])
    print(images.base_archive())


def arguments() -> argparse.ArgumentParser:
    """Commands and their options."""
    parser = argparse.ArgumentParser(
        prog="devcluster",
        description="A real Kubernetes on this machine, without Docker. See devcluster/README.md.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in (
        ("build", "install packages and build binaries into the cache"),
        ("up", "build what is missing and start the cluster"),
        ("down", "end the cluster and leave nothing behind"),
        ("status", "whether it is up, and how to reach it"),
        ("base-image", "make the base image: Debian 12 with Python 3.11"),
        ("pause-api", "kill the API server until resume-api"),
        ("resume-api", "start the API server again"),
    ):
        commands.add_parser(name, help=about, description=about)
    show = commands.add_parser("logs", help="newest lines of all logs")
    show.add_argument("--lines", type=int, default=20, help="of each log")
    show.add_argument("--follow", action="store_true", help="go on until interrupted")
    load = commands.add_parser("load-image", help="import an OCI archive into the running cluster")
    load.add_argument("archive", type=Path)
    execute = commands.add_parser("exec", help="run a command in the node, for example: exec kubectl get pods -A")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ARGUMENT...")
    for name, about in (
        ("api-up", "start an API server alone, without root; prints JSON"),
        ("api-down", "end that API server and remove its files"),
    ):
        alone = commands.add_parser(name, help=about, description=about)
        alone.add_argument("--dir", type=Path, required=True, help="where its data is")
    return parser


def dispatch(chosen: argparse.Namespace) -> int:
    """Run one command; returns the exit status."""
    match chosen.command:
        case "build":
            build_everything()
        case "up":
            up()
        case "down":
            node.down()
        case "status":
            return status()
        case "logs":
            return logs(lines=chosen.lines, follow=chosen.follow)
        case "base-image":
            base_image()
        case "load-image":
            print(images.load(chosen.archive), end="")
        case "exec":
            return namespaces.execute(chosen.words or ["bash"])
        case "pause-api":
            node.pause_api()
        case "resume-api":
            node.resume_api()
        case "api-up":
            print(api.start(chosen.dir).describe())
        case "api-down":
            api.stop_directory(chosen.dir)
    return 0


def main() -> None:
    """Errors are one sentence, not a traceback."""
    chosen = arguments().parse_args()
    try:
        raise SystemExit(dispatch(chosen))
    except DevclusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
