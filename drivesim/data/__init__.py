"""Clips come in: video, index, loader, latent cache."""
