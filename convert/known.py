"""Which published checkpoint a file is, by its sha256.

The sums are those of Meta's own files, as another project published them: ethanfel's
ComfyUI-SAM-Audio (sam_audio_comfy/runtime.py), which compared them with the hub's.
"""

from collections.abc import Mapping
from pathlib import Path

LICENSE = Path(__file__).parent / "sam_license" / "LICENSE"  # for sources that do not hold it
SUMS = {
    "8c44fda9821fd9f2ec8977304e3c0f55290d9eacb6bbf25b4b8fb1f69c2a8c06": "sam-audio-small",
    "b5f3e29ea7a9e80e90a00da495a8aafe890571f371c4bfb88c052c65a5636839": "sam-audio-base",
    "ca55418b1d23e8c8a4dcc55f259d9801c8f79da0131a66e525d862c1289e3c4f": "sam-audio-large",
    "1a9693b235efc3176986664dac349eb64022c7468cf8d4195954490a2457e6a9": "sam-audio-small-tv",
    "569e3fecdefe267047b02d117acb5a67c03d2f73c4943d3d8bd43df9e9b9148d": "sam-audio-base-tv",
    "90e047269238c498c5abe0da6e6ba40859d152111d4a09f582a209027a33b72f": "sam-audio-large-tv",
}


def known(sha256: Mapping[str, str]) -> str | None:
    """The repo whose checkpoint is among files with these sums."""
    found = [f"facebook/{SUMS[each]}" for each in sha256.values() if each in SUMS]
    return found[0] if found else None
