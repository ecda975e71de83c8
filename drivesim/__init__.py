"""drivesim: driving video from a Video Latent Diffusion Model, trained from scratch, rolled out for minutes, scored by
FVD."""

__version__ = "0.1.0"
