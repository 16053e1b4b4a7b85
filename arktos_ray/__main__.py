"""`python -m arktos_ray` is the command `arktos`."""

from __future__ import annotations

from arktos_ray.cli import main

if __name__ == "__main__":
    main()
