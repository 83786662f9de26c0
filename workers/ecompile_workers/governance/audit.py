"""Audit log in a file, one JSON record a line. In a cluster the operator keeps the same lines in a ConfigMap."""

from __future__ import annotations

import os
from pathlib import Path

from ecompile_crds import audit
from ecompile_crds.audit import AuditRecord
from ecompile_crds.errors import Code, DataError


def read(path: Path) -> tuple[AuditRecord, ...]:
    """All records.

    Raises DataError where the file is missing, ModelError where a line is not a record.
    """
    try:
        return audit.parse(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise DataError(Code.DATA_MISSING, f"{path}: cannot be read: {error.strerror}.") from error


def append(path: Path, record: AuditRecord) -> AuditRecord:
    """Seal a record onto the end of the log; its sequence and predecessor are filled in. Synced before it returns."""
    before = read(path) if path.exists() else ()
    previous = before[-1].hash if before else audit.GENESIS
    sealed = audit.seal(record.model_copy(update={"sequence": len(before) + 1, "previous": previous}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(audit.to_line(sealed) + "\n")
        log.flush()
        os.fsync(log.fileno())
    return sealed
