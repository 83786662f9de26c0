"""The operator: watches, decides, applies. No torch, no numpy; of ours it imports ecompile_crds only."""
