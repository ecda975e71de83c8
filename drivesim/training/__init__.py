"""Thin Lightning modules, one per stage; the loop that they share."""
