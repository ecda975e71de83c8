"""The mathematics of diffusion and nothing else: noise schedules, preconditioning, loss, guidance, samplers.

No network lives here. One convention throughout: variance-exploding, ``x = x0 + sigma n``. Models trained
variance-preserving (Stable Diffusion's and our own) see ``x / sqrt(1 + sigma^2)``; only ``precondition`` knows that.
"""
