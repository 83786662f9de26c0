"""The command line: commands, options, and sentences for what is not understood."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from ecompile_crds.jobs import JobKind
from ecompile_operator.decide.commands import Verb

from .problem import Problem

COMMANDS: dict[str, str] = {
    "status": "show a model as a tree: modules, evidence, pods with live figures, running Jobs",
    "explain": "say why a model is in its state, what may happen next, and when",
    "promote": "skip the remaining steps of validated modules",
    "approve": "let a rollout that waits for approval go on",
    "pause": "stop all advancing (spec.suspend: true); alerts still roll back",
    "resume": "go on after `pause`",
    "abort": "stop a rollout or validation; its module is Held",
    "rollback": "take modules out of service; they are Held until `retry`",
    "retry": "validate Held modules again, and try failed Jobs again",
    "logs": "show logs of all Jobs of a model, or of its serving pods",
    "support-bundle": "write one archive with objects, events and logs, without secrets",
    "completion": "print a completion script for a shell, or for kubectl itself",
}
"""Every command with its line in the help."""

VERBS = {verb.value for verb in Verb}


class Parser(argparse.ArgumentParser):
    """Answers what it does not understand with one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Problem(sentence(message), status=2)


def sentence(message: str) -> str:
    """argparse's message as a sentence with a way out."""
    end = "" if message.endswith((".", "?")) else "."
    return f"{message[:1].upper()}{message[1:]}{end} See `kubectl ecompile --help`."


def unknown(word: str) -> Problem:
    """The answer to a command that does not exist."""
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Commands: {', '.join(COMMANDS)}."
    return Problem(f"There is no command {word[:40]!r}. {hint}", status=2)


def make_parser() -> Parser:
    """The whole command line."""
    connection = Parser(add_help=False)
    connection.add_argument("-n", "--namespace", help="namespace of the model; the context's where not given")
    connection.add_argument("--context", help="context of the kubeconfig")
    connection.add_argument("--kubeconfig", help="path of the kubeconfig")
    parser = Parser(prog="kubectl ecompile", description="See and steer HybridModels.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    made = {}
    for name, about in COMMANDS.items():
        parents = [] if name == "completion" else [connection]
        made[name] = commands.add_parser(name, help=about, description=about, parents=parents)
        if name != "completion":
            made[name].add_argument("model", help="name of the HybridModel")
    made["status"].add_argument("--no-live", action="store_true", help="do not read the pods' own metrics")
    for name in sorted(VERBS):
        made[name].add_argument("--module", help="name of one CompiledModule; all of the model where not given")
        made[name].add_argument("--token", help="the command is executed once per token; made up where not given")
        made[name].add_argument(
            "--wait", type=float, default=30.0, metavar="SECONDS", help="how long to wait for the answer"
        )
    made["logs"].add_argument("--kind", choices=[kind.value for kind in JobKind], help="only Jobs of one kind")
    made["logs"].add_argument("--serving", action="store_true", help="serving pods instead of Jobs")
    made["logs"].add_argument("--tail", type=int, default=0, help="newest lines of each pod; 0 means all")
    made["support-bundle"].add_argument("-o", "--output", help="path of the archive, ending in .tar.gz")
    made["completion"].add_argument("shell", choices=["bash", "zsh", "fish", "kubectl"])
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    """Read the command line.

    Raises Problem with a sentence where it cannot be understood.
    """
    first = next((w for w in words if not w.startswith("-")), None)
    if first is not None and words[0] == first and first not in COMMANDS:
        raise unknown(first)
    found = make_parser().parse_args(words)
    if found.command is None:
        raise Problem(f"Give a command: {', '.join(COMMANDS)}.", status=2)
    return found
