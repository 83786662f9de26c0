"""`python3 -m devcluster`: a development cluster from the command line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from . import api, build, images, node, paths
from .console import DevclusterError, say


def logs(*, lines: int, follow: bool) -> None:
    """The newest lines of each component's log."""
    found = sorted(paths.LOGS.glob("*.log"))
    if not found:
        raise DevclusterError(f"no logs in {paths.LOGS}: no cluster has been started since the last `down`.")
    say(f"logs are in {paths.LOGS}")
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, found)]
    subprocess.run(command, check=False)


def status() -> None:
    """Whether it runs, and how to talk to it."""
    if node.pid() is None:
        print("down")
        raise SystemExit(1)
    print(f"up\nKUBECONFIG={paths.KUBECONFIG}\nlogs: {paths.LOGS}")
    print(node.kubectl("get", "nodes,pods", "-A"))


def up() -> None:
    build.install_packages()
    build.build_all()
    images.pause_archive()
    node.up()


def api_up(directory: Path) -> None:
    server = api.ApiServer(directory).start()
    (directory / "api.json").write_text(server.describe())
    print(server.describe())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="devcluster", description="A real Kubernetes on this machine, without Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("build", "install packages and build the binaries into the cache"),
        ("up", "start the cluster"),
        ("down", "end it and leave nothing behind"),
        ("status", "is it up?"),
        ("base-image", "make the base image; prints its path"),
        ("pause-api", "kill the API server until resume-api"),
        ("resume-api", "start the API server again"),
    ):
        commands.add_parser(name, help=about)
    show = commands.add_parser("logs", help="newest lines of all logs")
    show.add_argument("--lines", type=int, default=20)
    show.add_argument("--follow", action="store_true")
    load = commands.add_parser("load-image", help="import an OCI archive")
    load.add_argument("archive", type=Path)
    for name in ("api-up", "api-down"):
        commands.add_parser(name, help="an API server alone").add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "build":
                build.install_packages()
                build.build_all()
                images.pause_archive()
            case "up":
                up()
            case "down":
                node.down()
            case "status":
                status()
            case "logs":
                logs(lines=arguments.lines, follow=arguments.follow)
            case "base-image":
                build.install_packages()
                print(images.base_archive())
            case "load-image":
                print(images.load(arguments.archive))
            case "pause-api":
                node.pause_api()
            case "resume-api":
                node.resume_api()
            case "api-up":
                api_up(arguments.dir)
            case "api-down":
                api.stop_directory(arguments.dir)
    except DevclusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
