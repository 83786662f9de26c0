"""The product's heart: `decide(observed, now) -> Decision`, a pure function.

No I/O, no clock, no randomness, no client. Equal inputs give equal decisions, so a repeated decision changes nothing.
To misuse it: read the world in here, or keep state between calls.
"""
