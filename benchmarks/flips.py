"""Flip single bits of artifacts outside of what their checksums guard, and see what becomes of them.

    python benchmarks/flips.py RUN/voxels.h5 RUN/model.h5 RUN/codebook.h5 [--flips 3000]

Each artifact is copied with one bit flipped, anywhere but in the chunks of its datasets, and everything in it is read. Either
nothing that is read differs, or it is refused, or reading it ends the process (which `fer` lets another process try
first), or something differs and nobody notices. Small artifacts do best: those of the tests.
"""

import argparse
import json
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fer_cli.errors import FerError
from fer_cli.storage import artifact
from fer_cli.storage.artifact import ROOT_ATTRIBUTES, open_artifact

SECONDS = 5
_OUTCOMES = ("same", "refused", "ended", "different")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--flips", type=int, default=3000, help="flips of each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    artifact.vet = lambda *_: None  # here the children of this process are the processes apart
    print(f"| artifact | bytes outside of chunks | {' | '.join(_OUTCOMES)} |\n|{'---|' * (len(_OUTCOMES) + 2)}")
    for path in options.artifacts:
        unguarded = outside_chunks(path)
        chance = random.Random(options.seed)
        flips = [(int(unguarded[chance.randrange(len(unguarded))]), chance.randrange(8)) for _ in range(options.flips)]
        counts = outcomes(path, flips)
        cells = " | ".join(str(counts[outcome]) for outcome in _OUTCOMES)
        print(f"| {path.name} | {len(unguarded)} | {cells} |", flush=True)


def outside_chunks(path: Path) -> np.ndarray:
    """Places of all bytes that belong to no chunk."""
    is_outside = np.ones(path.stat().st_size, bool)

    def take_out(_: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks:
            for number in range(item.id.get_num_chunks()):
                chunk = item.id.get_chunk_info(number)
                is_outside[chunk.byte_offset : chunk.byte_offset + chunk.size] = False

    with h5py.File(path) as file:
        file.visititems(take_out)
    return np.flatnonzero(is_outside)


def outcomes(path: Path, flips: list[tuple[int, int]]) -> Counter[str]:
    """What becomes of each flip; a child that is ended by one is followed by another that goes on behind it."""
    whole, said = path.read_bytes(), everything(path)
    counts: Counter[str] = Counter()
    done = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while done < len(flips):
            read, write = os.pipe()
            child = os.fork()
            if not child:
                os.close(read)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the C library says at a crash
                try:
                    for place, bit in flips[done:]:
                        signal.alarm(SECONDS)
                        outcome = outcome_of(Path(folder) / "a.h5", whole, said, place, bit)
                        os.write(write, bytes([_OUTCOMES.index(outcome)]))
                finally:
                    os._exit(0)
            os.close(write)
            with os.fdopen(read, "rb") as stream:
                answers = stream.read()
            os.waitpid(child, 0)
            counts.update(_OUTCOMES[answer] for answer in answers)
            done += len(answers)
            if done < len(flips):
                counts["ended"] += 1
                done += 1
    return counts


def outcome_of(copy: Path, whole: bytes, said: dict[str, Any], place: int, bit: int) -> str:
    """What becomes of the artifact with one bit flipped."""
    flipped = bytearray(whole)
    flipped[place] ^= 1 << bit
    copy.write_bytes(flipped)
    try:
        return "same" if everything(copy) == said else "different"
    except FerError:
        return "refused"


def everything(path: Path) -> dict[str, Any]:
    """All that an artifact says that has a meaning: not which program made it."""
    with open_artifact(path) as opened, h5py.File(path) as file:
        said: dict[str, Any] = {"id": opened.id, "config": opened.config, "parents": opened.parents}
        for key in set(file.attrs) - set(ROOT_ATTRIBUTES):
            said[f"attribute {key}"] = json.dumps(opened.attribute(key))
        for name in opened.names():
            spec = opened.form.spec(name)
            said[name] = opened.read_text(name) if spec.dtype == "text" else opened.read(name).tobytes()
        return said


if __name__ == "__main__":
    main()
