"""Alerts and dashboards name metrics that the code exposes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from ecompile_kubectl import live
from ecompile_operator.control.alertmanager import LABEL, parse
from ecompile_operator.decide.observed import AlertKind
from ecompile_operator.metrics import REGISTRY

ROOT = Path(__file__).parents[3]
FILES = ROOT / "charts" / "ecompile" / "files"
NAME = re.compile(r"\becompile_[a-z0-9_]+")
TARGET_LABEL = "ecompile_dev_model"
"""The Pods' label ecompile.dev/model, as the PodMonitor's podTargetLabels give it to each series."""
SERVING = ROOT / "workers" / "ecompile_workers" / "serving"


SUFFIXES = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_count", "_sum"]}


def exposed() -> set[str]:
    """Names of samples: of the operator's registry, and of the metrics made in the serving pod."""
    found = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= {family.name + suffix for suffix in suffixes}
    text = (SERVING / "metrics.py").read_text()
    fields = re.findall(r"^ +\(\"([a-z0-9_]+)\", \"", text, flags=re.MULTILINE)
    for kind, name in re.findall(r"(Counter|Gauge|Histogram)MetricFamily\(\s*f?\"(ecompile_[a-z_{}]+)\"", text):
        for each in [name.replace("{field}", field) for field in fields] if "{field}" in name else [name]:
            found |= {f"{each}{suffix}" for suffix in SUFFIXES[kind]}
    return found


def expressions() -> list[tuple[str, str]]:
    found = []
    for group in yaml.safe_load((FILES / "rules" / "ecompile.yaml").read_text())["groups"]:
        found += [(rule["alert"], rule["expr"]) for rule in group["rules"]]
    for path in sorted((FILES / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_named_metrics_exist(where: str, expression: str) -> None:
    named = set(NAME.findall(expression)) - {TARGET_LABEL}
    assert named and named <= exposed(), named - exposed()


def test_kubectl_reads_metrics_that_pods_expose() -> None:
    assert set(live.NAMES) <= exposed()


@pytest.mark.parametrize("path", sorted((FILES / "dashboards").glob("*.json")), ids=lambda p: p.stem)
def test_dashboards_have_panels_that_do_not_overlap(path: Path) -> None:
    board = json.loads(path.read_text())
    places = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_rules_that_roll_back_carry_what_the_webhook_reads() -> None:
    """A firing alert of each is a notice about one segment of one model."""
    rules = yaml.safe_load((FILES / "rules" / "ecompile.yaml").read_text())["groups"]
    found = {}
    for rule in (rule for group in rules for rule in group["rules"]):
        if LABEL not in rule["labels"]:
            continue
        grouped = ("namespace", TARGET_LABEL, "segment")
        assert f"by ({', '.join(grouped)})" in rule["expr"]
        assert rule["labels"]["model"] == "{{ $labels." + TARGET_LABEL + " }}"
        labels = {"alertname": rule["alert"], "namespace": "a", "segment": "0", **rule["labels"], "model": "net"}
        sent = {"status": "firing", "labels": labels, "annotations": rule["annotations"]}
        notices, ignored = parse(json.dumps({"version": "4", "alerts": [sent]}).encode())
        assert not ignored
        found[notices[0].alert.kind] = rule
    assert {AlertKind.BREAKER, AlertKind.DRIFT, AlertKind.FALLBACK, AlertKind.LATENCY} <= set(found)


def test_alerts_say_what_and_what_to_do() -> None:
    for group in yaml.safe_load((FILES / "rules" / "ecompile.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"] and rule["annotations"]["description"]
