"""Human commands: the annotation `ecompile.dev/command: <verb> <token>`, each token executed once and answered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from ecompile_crds.compiledmodule import SERVING_STAGES, Stage
from ecompile_crds.hybridmodel import CommandStatus

from .clock import to_text
from .decision import ModelEvent
from .draft import Draft
from .observed import ObservedModule
from .stages import enter, promote, retry_hint, revalidate, roll_back


class Verb(StrEnum):
    PROMOTE = "promote"
    ABORT = "abort"
    ROLLBACK = "rollback"
    APPROVE = "approve"
    RETRY = "retry"


APPROVABLE = (Stage.PENDING, Stage.VALIDATING, Stage.VALIDATED, Stage.SHADOW, Stage.CANARY)
REMEMBERED_TOKENS = 16
"""A command repeated after this many others is taken for a new one."""
TOKEN = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.:]{0,62}[A-Za-z0-9])?$")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as written; `verb` is None where it cannot be executed, and `problem` says why."""

    text: str
    token: str
    verb: Verb | None
    problem: str = ""


def parse(text: str) -> Command:
    """Read an annotation value. Never raises: a bad command is answered, not fatal."""
    words = text.split()
    verbs = ", ".join(v.value for v in Verb)
    if len(words) != 2 or not TOKEN.match(words[1]):
        return Command(
            text=text[:200],
            token=text[:63],
            verb=None,
            problem=f"annotation ecompile.dev/command must be '<verb> <token>' with one of {verbs}; "
            "the token is 1 to 64 letters, digits, '-', '_', '.' or ':'",
        )
    verb, token = words
    if verb not in set(Verb):
        return Command(text=text[:200], token=token, verb=None, problem=f"unknown command '{verb[:40]}': use {verbs}")
    return Command(text=text, token=token, verb=Verb(verb))


def answer_commands(draft: Draft, last: CommandStatus | None) -> CommandStatus | None:
    """Execute the model's own command, then those of its modules. Returns the model's last command."""
    lives = {draft.life.key} | ({draft.serving.key} if draft.serving is not None else set())
    modules = [m for m in draft.observed.modules if m.spec.life in lives]
    last = _answer(draft, draft.observed.command, last, modules, module=None)
    for module in modules:
        status = draft.modules[module.name]
        answered = _answer(draft, module.command, status.last_command, [module], module=module.name)
        if answered != status.last_command:
            draft.modules[module.name] = draft.modules[module.name].model_copy(update={"last_command": answered})
    return last


def _answer(
    draft: Draft,
    text: str | None,
    last: CommandStatus | None,
    modules: list[ObservedModule],
    *,
    module: str | None,
) -> CommandStatus | None:
    if not text:
        return last
    command = parse(text)
    if last is not None and last.command == command.text:
        return last
    if command.verb is None:
        answer, type_ = f"refused: {command.problem}", "Warning"
    elif command.token in _used_tokens(last):
        answer, type_ = f"refused: token {command.token} was used before; choose another", "Warning"
    else:
        draft.command_token = command.token
        answer, type_ = _execute(draft, command.verb, modules), "Normal"
        if command.verb is Verb.RETRY and module is None:
            draft.retry_jobs = True
    draft.events.append(
        ModelEvent(
            type="Warning" if type_ == "Warning" else "Normal",
            reason="CommandRefused" if type_ == "Warning" else "CommandExecuted",
            message=f"{command.text}: {answer}",
            module=module,
        )
    )
    return CommandStatus(
        token=command.token,
        command=command.text,
        answer=answer,
        executed_at=to_text(draft.now),
        earlier_tokens=_used_tokens(last),
    )


def _used_tokens(last: CommandStatus | None) -> list[str]:
    """Tokens that must not be executed again, newest first."""
    if last is None:
        return []
    return list(dict.fromkeys([last.token, *last.earlier_tokens]))[:REMEMBERED_TOKENS]


def _execute(draft: Draft, verb: Verb, modules: list[ObservedModule]) -> str:
    if verb is Verb.PROMOTE and draft.spec.suspend:
        return "promote: nothing was done, because spec.suspend is true; set it to false first"
    done = [m.name for m in modules if _apply(draft, verb, m)]
    if done:
        return f"{verb.value}: {', '.join(done)}"
    if verb is Verb.RETRY:
        return "retry: failed Jobs are tried again"
    return f"{verb.value}: no module is in a stage to which it applies"


def _apply(draft: Draft, verb: Verb, module: ObservedModule) -> bool:
    """Execute one verb on one module; False where its stage does not allow it."""
    status = draft.modules[module.name]
    stage = status.rollout.stage
    served = draft.serving is not None and draft.serving.key == module.spec.life
    match verb:
        case Verb.ABORT if stage in (
            Stage.PENDING,
            Stage.VALIDATING,
            Stage.VALIDATED,
            Stage.REVALIDATING,
            Stage.ROLLED_BACK,
        ):
            message = f"aborted by command. {retry_hint()}"
            draft.modules[module.name] = enter(draft, module, Stage.HELD, message, not_before="")
        case Verb.ABORT if stage in (Stage.SHADOW, Stage.CANARY):
            _roll_back_by_human(draft, module, "Aborted")
        case Verb.ROLLBACK if stage in SERVING_STAGES:
            _roll_back_by_human(draft, module, "Manual")
        case Verb.PROMOTE if stage in (Stage.VALIDATED, Stage.SHADOW, Stage.CANARY) and served:
            draft.modules[module.name] = promote(draft, module, "promoted by command")
        case Verb.APPROVE if stage in APPROVABLE:
            rollout = status.rollout.model_copy(update={"approved": True})
            draft.modules[module.name] = status.model_copy(update={"rollout": rollout})
        case Verb.RETRY if stage in (Stage.HELD, Stage.ROLLED_BACK):
            draft.modules[module.name] = revalidate(draft, module, "by command", failures=0)
        case Verb.ABORT | Verb.ROLLBACK | Verb.PROMOTE | Verb.APPROVE | Verb.RETRY:
            return False
        case _:
            assert_never(verb)
    return True


def _roll_back_by_human(draft: Draft, module: ObservedModule, reason: str) -> None:
    draft.modules[module.name] = roll_back(
        draft,
        module,
        reason=reason,
        detail=f"by command, token {draft.command_token}",
        value=0.0,
        limit=0.0,
        by_human=True,
    )
