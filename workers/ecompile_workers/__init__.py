"""What runs in Jobs and serving pods, and the `ecompile` command. Of ours it imports ecompile_crds only."""
