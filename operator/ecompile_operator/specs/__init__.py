"""One builder per child kind: pure functions from values to manifests. Nothing here reads or writes the cluster."""
