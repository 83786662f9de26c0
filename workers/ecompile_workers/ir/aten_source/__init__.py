"""Programs of `torch.export`: their form without torch, and what each ATen operator means, by family."""
