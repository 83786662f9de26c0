"""`explain`: why a model is as it is, what comes next and when, in sentences. All of it from `decide`'s forecast."""

from __future__ import annotations

from datetime import datetime

from ecompile_operator.decide.clock import to_condition_time
from ecompile_operator.decide.forecast import Change, CommandOutlook, Forecast, Outlook

from .times import duration


def lines(forecast: Forecast, now: datetime) -> list[str]:
    """The whole explanation."""
    present = forecast.present
    status = present.status
    found = [f"{present.name} is {status.phase.value}. {_sentence(status.message)}".rstrip()]
    for module in sorted(present.modules, key=lambda m: (m.spec.segment, m.name)):
        stage = f"{module.status.rollout.stage.value} {module.status.step}".strip()
        found.append(f"{module.name} is {stage}. {_sentence(module.status.message)}".rstrip())
    found.append("")
    found.append("What may happen next:")
    found += [line for outlook in forecast.outlooks for line in _outlook(outlook, now)]
    if not forecast.outlooks:
        found.append("  Nothing, until the spec changes or a command is given.")
    useful = [c for c in forecast.commands if c.changes]
    if useful:
        found += ["", "Commands that would change something now (kubectl ecompile <command> <name>):"]
        found += [line for command in useful for line in _command(command)]
    return found


def _sentence(text: str) -> str:
    if not text:
        return ""
    start = text[0].upper() + text[1:] if text[0].isalpha() and not _is_name(text) else text
    return start if start.endswith((".", "!", "?")) else f"{start}."


def _is_name(text: str) -> bool:
    """Whether the first word is the name of an object, which is not capitalised."""
    return "-" in text.split(maxsplit=1)[0]


def _outlook(outlook: Outlook, now: datetime) -> list[str]:
    if outlook.at is not None:
        wait = duration((outlook.at - now).total_seconds())
        start = f"at {to_condition_time(outlook.at)} (in {wait}), if nothing else happens"
    else:
        start = f"when {outlook.cause.value}"
    return [f"  {start}:", *(f"    {_change(change)}" for change in outlook.changes)]


def _command(command: CommandOutlook) -> list[str]:
    return [f"  {command.verb.value}:", *(f"    {_change(change)}" for change in command.changes)]


def _change(change: Change) -> str:
    subject = change.subject or "the model"
    if change.before == "absent":
        return f"{subject} is created" if change.after == "created" else f"{subject} is created, {change.after}"
    return f"{subject}: {change.before} -> {change.after}"
