"""A real single-node Kubernetes on one machine, without Docker, a registry or systemd.

Standard library only, and nothing of ECOmpile is imported: it runs with a plain `python3 -m devcluster` before any
virtual environment exists. README.md tells how it works.
"""
