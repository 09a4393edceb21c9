"""Tell a converted demo model which sounds it knows, and the words of their descriptions.

python -m training.vocabulary MODEL
"""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

from mlx_sam_audio.demo.sounds import FAMILIES
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.models.sam_audio import VocabularyConfig

STOP_WORDS = {"a", "an", "the", "of", "some", "sound", "sounds"}


def vocabulary() -> VocabularyConfig:
    families = FAMILIES.values()
    phrases = [phrase for family in families for phrase in family.phrases + family.heldout]
    words = STOP_WORDS.union(re.findall(r"\w+", " ".join(phrases).lower()))
    return VocabularyConfig(tuple(f.phrases[0] for f in families), tuple(sorted(words)))


def main(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | dict(vocabulary=asdict(vocabulary()))
    path.write_text(json.dumps(config, indent=2) + "\n")
    manifest.write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
