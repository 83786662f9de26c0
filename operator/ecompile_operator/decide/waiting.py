"""Why a Pod or a Job does not start, and what to do about it, in one sentence."""

from __future__ import annotations

import re

SUSPENDED = "Suspended"
"""Reason of a Job that a queue has not admitted yet; the message is the queue's name."""
NO_POD = "NoPod"
"""Reason of a Job for which no Pod has been made."""

UNSCHEDULABLE: tuple[tuple[str, str], ...] = (
    (r"Insufficient (nvidia\.com/\S+|amd\.com/\S+)", "no node has a free {0}; add one, or ask for fewer"),
    (r"Insufficient (cpu|memory|ephemeral-storage)", "no node has enough {0} left; add one, or lower the requests"),
    (r"untolerated taint \{([^}]*)\}", "nodes have the taint {0}, which the template does not tolerate"),
    (r"didn't match Pod's node affinity/selector", "no node has the labels of the node selector"),
    (r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim \"([^\"]*)\" not found", "the claim for "
     "artifacts is not bound; see `kubectl get pvc`"),
    (r"node\(s\) had volume node affinity conflict", "the volume for artifacts is bound to another node or zone"),
)  # fmt: skip
"""Patterns in the scheduler's message, in the order in which they are looked for (kube-scheduler, FailedScheduling)."""

ELSE = {
    "ImagePullBackOff": "the image cannot be pulled; check its name, and the registry's credentials",
    "ErrImagePull": "the image cannot be pulled; check its name, and the registry's credentials",
    "ErrImageNeverPull": "the image is not on the node and its pull policy is Never",
    "InvalidImageName": "the image's name is not valid",
    "CreateContainerConfigError": "something that the Pod mounts or reads is not there",
    "CreateContainerError": "the container cannot be made",
    "CrashLoopBackOff": "the container ends again and again; see its logs",
    NO_POD: "no Pod has been made for it; a quota or an admission webhook may refuse it: see its Events",
}


def sentence(reason: str, message: str) -> str:
    """Empty where nothing is known to hinder it."""
    if not reason:
        return ""
    if reason == SUSPENDED:
        return f"waits to be admitted by Kueue{f' to queue {message}' if message else ''}"
    if reason == "Unschedulable":
        for pattern, text in UNSCHEDULABLE:
            found = re.search(pattern, message)
            if found:
                return f"{text.format(*found.groups())} ({_short(message)})"
    known = ELSE.get(reason)
    detail = _short(message)
    if known is None:
        return f"{reason}: {detail}" if detail else reason
    if reason == NO_POD:
        return known
    return f"{known} ({reason}: {detail})" if detail else f"{known} ({reason})"


def _short(message: str) -> str:
    """The first two sentences at most; the scheduler adds one about preemption."""
    text = message.split("preemption:", 1)[0].strip().rstrip(".")
    return text if len(text) <= 300 else f"{text[:297]}..."
