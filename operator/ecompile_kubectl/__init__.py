"""`kubectl ecompile`: see and steer HybridModels from the command line."""
