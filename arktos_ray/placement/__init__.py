"""The vectorised scheduler: arrays in, a plan out. Pure; `solve.py` is the place to start."""
