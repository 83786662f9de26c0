"""Strategies that turn a segment into something faster, and the orchestrator that picks by measured time."""
