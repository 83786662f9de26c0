"""Keeping and checking records of what was swapped, and why."""
