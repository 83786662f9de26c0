"""What is true of a network on a box of inputs, the certificate that states it, and the checker that re-derives it.

`checker.py` imports nothing from here but the IR. Not here: where boxes come from (`distill/regions.py`) and how their
code is printed (`codegen/guard_tree.py`).
"""
