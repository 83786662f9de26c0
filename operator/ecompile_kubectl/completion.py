"""Shell completion: one list of candidates, and a script per shell that asks for it.

kubectl itself (1.26 and later) asks an executable `kubectl_complete-ecompile` on PATH; its answer ends with a line
`:4`, which tells the shell not to offer file names (Cobra's ShellCompDirectiveNoFileComp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .arguments import COMMANDS, VERBS

DIRECTIVE = ":4"
OPTIONS = ("--namespace", "--context", "--kubeconfig", "--help")

BASH = """\
_kubectl_ecompile() {
  COMPREPLY=($(compgen -W "$(kubectl-ecompile __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" \\
    -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _kubectl_ecompile kubectl-ecompile
"""
ZSH = """\
#compdef kubectl-ecompile
_kubectl_ecompile() {
  local -a found
  found=("${(@f)$(kubectl-ecompile __complete "${words[@]:1:$((CURRENT - 1))}" 2>/dev/null)}")
  compadd -- $found
}
compdef _kubectl_ecompile kubectl-ecompile
"""
FISH = """\
complete -c kubectl-ecompile -f -a '(kubectl-ecompile __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""
KUBECTL = """\
#!/bin/sh
# Save as kubectl_complete-ecompile in a directory of PATH and make it executable.
kubectl-ecompile __complete "$@" 2>/dev/null
echo ':4'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH, "kubectl": KUBECTL}


def candidates(words: list[str], names: Callable[[], Iterable[str]]) -> list[str]:
    """What may stand in the place of the last word. `names` lists HybridModels; it is asked only where needed."""
    *before, current = words or [""]
    if current.startswith("-"):
        found: Iterable[str] = _options(before)
    else:
        plain = [word for word in before if not word.startswith("-")]
        match plain:
            case []:
                found = COMMANDS
            case ["completion"]:
                found = SCRIPTS
            case [command] if command in COMMANDS:
                found = names()
            case _:
                found = ()
    return sorted(word for word in found if word.startswith(current))


def _options(before: list[str]) -> Iterable[str]:
    command = next((word for word in before if word in COMMANDS), "")
    extra: tuple[str, ...] = ()
    if command in VERBS:
        extra = ("--module", "--token", "--wait")
    elif command == "logs":
        extra = ("--kind", "--serving", "--tail")
    elif command == "status":
        extra = ("--no-live",)
    elif command == "support-bundle":
        extra = ("--output",)
    return (*OPTIONS, *extra)
