"""Symbolic regression of segments with at most five inputs: engines behind one protocol, and guards against errors.

Engines propose expressions; `search.py` refits their constants and believes nothing that inputs kept back do not show.
"""
