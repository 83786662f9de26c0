"""The serving pod: routes requests over neural and compiled segments, compares, detects, trips. Never imports torch."""
