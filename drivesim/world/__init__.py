"""A small procedural driving world, seen from a windscreen, with exact truth."""

from drivesim.world.drive import Truth, World, drive, render

__all__ = ["Truth", "World", "drive", "render"]
