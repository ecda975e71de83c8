"""``requirements.lock``: every package that CI installs, with the SHA-256 of its file, as ``constraints.txt`` pins it.

    python tools/lock.py          on Linux x86-64 with CPython 3.11, which is the only platform that the lock is for

torch is not in it: its wheels come from three indices (PyPI's with CUDA, PyTorch's without, a machine's own), each with
bits of its own. Its version is pinned by ``constraints.txt`` and the Makefile.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
LEFT_OUT = {"drivesim", "torch"}
HEAD = """\
# What CI installs on Linux x86-64 with CPython 3.11, with hashes; made by tools/lock.py from constraints.txt.
# torch is pinned by version alone: its wheels differ from index to index.
"""


def main() -> None:
    if (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)):
        sys.exit("the lock is for Linux x86-64 with CPython 3.11, and this is another platform")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        wanted = [f"{ROOT}[test,videomae]", "setuptools", "wheel"]
        how = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        subprocess.run([sys.executable, "-m", "pip", *how, "-c", str(ROOT / "constraints.txt"), *wanted], check=True)
        found = json.loads(report.read_text())["install"]
    rows = []
    for package in found:
        name, version = package["metadata"]["name"], package["metadata"]["version"]
        if name.lower() not in LEFT_OUT and not name.lower().startswith(("nvidia-", "triton")):
            sha = package["download_info"]["archive_info"]["hashes"]["sha256"]
            rows.append(f"{name.lower()}=={version} --hash=sha256:{sha}\n")
    LOCK.write_text(HEAD + "".join(sorted(rows)))
    print(f"{LOCK}: {len(rows)} packages")


if __name__ == "__main__":
    main()
