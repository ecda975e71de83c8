r"""Makes the "autoencoder" of models of pixels, which has no network: pixels are their own latents [Table 7].

    python tools/make_pixels.py --size 64x128 --out runs/pixels/autoencoder.safetensors
    drivesim encode INDEX --weights runs/pixels --size 64x128 --fps 15/8 --out runs/pixel-latents
    drivesim train image configs/ablation/pixel-image.yaml cache=runs/pixel-latents \
        autoencoder=runs/pixels/autoencoder.safetensors --out runs/pixel-image

Everything behind it goes as for latents: their f is 1, their deviation is taken to be 0.5 of [-1, 1].
"""

import argparse
from pathlib import Path

from drivesim import config, weights
from drivesim.models.autoencoder import AutoencoderConfig

MEAN, DEVIATION = 0.0, 0.5
PIXELS = AutoencoderConfig(latent=3, regularizer="none")


def make(out: Path, size: tuple[int, int]) -> str:
    """Writes the weight file, of no weights, for frames of ``size`` = (H, W); returns its SHA-256."""
    latent = {
        "f": PIXELS.f, "channels": PIXELS.latent, "regularizer": PIXELS.regularizer,
        "mean": [MEAN] * PIXELS.latent, "std": [DEVIATION] * PIXELS.latent,
    }  # fmt: skip
    return weights.save(out, {}, weights.Header("autoencoder", config.plain(PIXELS), size=size, latent=latent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="128x256", metavar="HxW")
    parser.add_argument("--out", type=Path, default=Path("runs/pixels/autoencoder.safetensors"))
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    print(f"{options.out}: sha256 {make(options.out, (height, width))}")


if __name__ == "__main__":
    main()
