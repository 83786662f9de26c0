"""Reading what users bring and keeping what Jobs make."""
