"""A fleet for bench/scale.py: one promoted model made by the operator's own code, copied N times into a real API
server, with serving Pods whose tokens and control streams are real."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from ecompile_crds.names import COMPONENT_SERVING, LABEL_COMPONENT, TRUST_CONFIGMAP
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.errors import Conflict
from ecompile_operator.kube.kinds import (
    COMPILEDMODULE,
    CONFIGMAP,
    DEPLOYMENT,
    HYBRIDMODEL,
    POD,
    SERVICE,
    Kind,
)

from tests.chaos.life import NAME as TEMPLATE
from tests.chaos.life import NAMESPACE as TEMPLATE_NAMESPACE
from tests.chaos.life import Stage, hybrid_model
from tests.chaos.operators import NoFaults, Operator
from tests.unit.operator.virtual_time import run as run_in_virtual_time

CONCURRENCY = 24
MODELS_PER_NAMESPACE = 100
ORDER: tuple[Kind, ...] = (COMPILEDMODULE, DEPLOYMENT, SERVICE, CONFIGMAP, POD)
IMAGE = "ecompile/serving:dev"
Item = TypeVar("Item")


def template(*, segments: int, pods: int) -> dict[str, list[Manifest]]:
    """Objects of one promoted model by kind, as the operator's own code leaves them."""

    async def main(clock: Callable[[], float]) -> dict[str, list[Manifest]]:
        stage = Stage(clock, segments=segments)
        operator = Operator(stage.api, name="template", clock=clock, faults=NoFaults())
        stage.operators.append(operator)
        tasks = [asyncio.create_task(stage.cluster.run()), asyncio.create_task(operator.run())]
        stage.api.create(HYBRIDMODEL.plural, TEMPLATE_NAMESPACE, hybrid_model(replicas=pods))
        await stage.until("promotion", stage.promoted)
        await asyncio.sleep(60)
        found = {kind.kind: stage.api.all(kind.plural, TEMPLATE_NAMESPACE) for kind in (HYBRIDMODEL, *ORDER)}
        operator.die()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found

    found = run_in_virtual_time(main)
    # The trust ConfigMap is one per namespace; finished Jobs and their Pods are gone after their TTL.
    found[CONFIGMAP.kind] = [c for c in found[CONFIGMAP.kind] if c["metadata"]["name"] != TRUST_CONFIGMAP]
    found[POD.kind] = [p for p in found[POD.kind] if p["metadata"]["labels"][LABEL_COMPONENT] == COMPONENT_SERVING]
    return found


def namespace_of(number: int) -> str:
    return f"fleet-{number // MODELS_PER_NAMESPACE:03d}"


def model_name(number: int) -> str:
    return f"model-{number:05d}"


def copy_of(manifest: Manifest, kind: Kind, number: int, owners: dict[str, str]) -> Manifest:
    """The template's object for one model of the fleet, owned by what has those uids (by template uid)."""
    text = json.dumps(manifest)
    text = text.replace(f'"{TEMPLATE}-', f'"{model_name(number)}-').replace(f'"{TEMPLATE}"', f'"{model_name(number)}"')
    text = text.replace(f'\\"{TEMPLATE}-', f'\\"{model_name(number)}-')
    text = text.replace(f'\\"{TEMPLATE}\\"', f'\\"{model_name(number)}\\"')
    text = text.replace(f" {TEMPLATE}-", f" {model_name(number)}-")
    text = text.replace(f'\\"{TEMPLATE_NAMESPACE}\\"', f'\\"{namespace_of(number)}\\"')
    made: Manifest = json.loads(text)
    meta = made["metadata"]
    for name in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
        meta.pop(name, None)
    meta["namespace"] = namespace_of(number)
    for owner in meta.get("ownerReferences") or []:
        owner["uid"] = owners[owner["uid"]]
        owner.setdefault("apiVersion", "v1")
    made["apiVersion"], made["kind"] = kind.api_version, kind.kind
    if kind is POD and not made.get("spec", {}).get("containers"):
        made["spec"] = {"serviceAccountName": "default", "containers": [{"name": "serving", "image": IMAGE}]}
    return made


async def in_parallel(
    items: Sequence[Item], work: Callable[[Item], Awaitable[object]], *, width: int = CONCURRENCY
) -> None:
    """Work on all items, so many at a time."""
    pending = iter(items)

    async def worker() -> None:
        for item in pending:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(width)))


async def namespaces(client: KubeClient, names: Iterable[str]) -> None:
    """Namespaces with the ServiceAccount that a controller would make."""
    for name in names:
        for path, body in (
            ("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            (
                f"/api/v1/namespaces/{name}/serviceaccounts",
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
            ),
        ):
            try:
                await client.request("POST", path, body=body)
            except Conflict:
                continue


async def populate(client: KubeClient, found: dict[str, list[Manifest]], numbers: Sequence[int]) -> None:
    """Create the models of these numbers with all their children and statuses; our kinds must have no status
    subresource meanwhile, so that their statuses come with them."""
    await namespaces(client, sorted({namespace_of(number) for number in numbers}))

    async def one(number: int) -> None:
        owners: dict[str, str] = {}
        for kind in (HYBRIDMODEL, *ORDER):
            for manifest in found[kind.kind]:
                made = copy_of(manifest, kind, number, owners)
                status = made.get("status")
                created = await client.create(kind, made["metadata"]["namespace"], made)
                owners[manifest["metadata"]["uid"]] = created["metadata"]["uid"]
                if status and kind in (POD, DEPLOYMENT):
                    path = kind.path(namespace_of(number), made["metadata"]["name"], "status")
                    await client.request("PUT", path, body={**created, "status": status})

    await in_parallel(numbers, one)


class TokenSigner:
    """Tokens bound to Pods, as the API server signs them; it is faster to sign than to ask 20,000 times."""

    def __init__(self, key: Path) -> None:
        found = serialization.load_pem_private_key(key.read_bytes(), password=None)
        assert isinstance(found, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        self._key = found
        public = found.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(public)
        self._id = _text(digest.finalize())

    def sign(self, *, namespace: str, account_uid: str, pod: str, pod_uid: str) -> str:
        now = int(time.time())
        rsa_key = isinstance(self._key, rsa.RSAPrivateKey)
        head = {"alg": "RS256" if rsa_key else "ES256", "kid": self._id}
        body: dict[str, Any] = {
            "aud": ["ecompile"],
            "exp": now + 86_400,
            "iat": now - 10,
            "nbf": now - 10,
            "iss": "https://kubernetes.default.svc",
            "sub": f"system:serviceaccount:{namespace}:default",
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": pod, "uid": pod_uid},
                "serviceaccount": {"name": "default", "uid": account_uid},
            },
        }
        text = f"{_text(json.dumps(head).encode())}.{_text(json.dumps(body).encode())}"
        if isinstance(self._key, rsa.RSAPrivateKey):
            signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{text}.{_text(signature)}"


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
