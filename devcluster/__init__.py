"""A real single-node Kubernetes on one machine, without Docker, a registry or systemd. Standard library only."""
