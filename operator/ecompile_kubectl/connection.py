"""Which API server, with which credentials and in which namespace: as kubectl would choose."""

from __future__ import annotations

from dataclasses import dataclass

from kubernetes import config as kube_config
from kubernetes.client import Configuration

from .problem import Problem


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A configured API server and the namespace to look in."""

    configuration: Configuration
    namespace: str


def connect(*, kubeconfig: str | None, context: str | None, namespace: str | None) -> Connection:
    """Read the kubeconfig.

    Raises Problem where there is none, or where it has no such context.
    """
    configuration = Configuration()
    try:
        kube_config.load_kube_config(  # type: ignore[no-untyped-call]  # untyped upstream
            config_file=kubeconfig, context=context, client_configuration=configuration
        )
        contexts, current = kube_config.list_kube_config_contexts(config_file=kubeconfig)  # type: ignore[no-untyped-call]  # untyped upstream
    except kube_config.ConfigException as error:
        raise Problem(
            f"No cluster to talk to: {error} Set KUBECONFIG or --kubeconfig, see `kubectl config`."
        ) from error
    chosen = next((c for c in contexts if c["name"] == context), current)
    return Connection(
        configuration=configuration,
        namespace=namespace or chosen.get("context", {}).get("namespace") or "default",
    )
