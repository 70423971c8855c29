"""`make fuzz-coverage`: one reader against files that Atheris makes, led by which lines of fer they reach.

    python tests/atheris_fuzz.py off CORPUS_FOLDER [libFuzzer's own options]

Ends at the first fault, and leaves the file that shows it. The limits of time and memory are libFuzzer's.
"""

import sys
import tempfile
from pathlib import Path

import atheris

# Numba compiles no code that is instrumented.
_COMPILED = [f"fer_cli.data.{module}" for module in ("ply", "points", "scanning", "triangles")]
with atheris.instrument_imports(include=["fer_cli"], exclude=_COMPILED):
    import hostile
    from fer_cli.storage import arrays, artifact


def main() -> None:
    """Fuzz the reader that the first argument names."""
    reader, corpus = sys.argv.pop(1), Path(sys.argv[1])
    artifact.vet = arrays.vet = lambda *_: None  # what it finds out is not to be found here
    for number, content in enumerate(hostile.seeds(reader)):
        (corpus / f"seed-{number}").write_bytes(content)
    folder = Path(tempfile.mkdtemp())
    for content in hostile.seeds(
        reader
    ):  # which imports and compiles what is needed, so that it takes none of a file's time
        hostile.outcome(reader, content, folder)

    def read(content: bytes) -> None:
        result = hostile.outcome(reader, content, folder)
        if result not in (hostile.READ, hostile.REFUSED):
            raise AssertionError(result)

    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
