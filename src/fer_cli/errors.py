"""What can go wrong for a user, by who has to act.

Every error says what was wrong, the values, and what to do, in one line. `cli` alone turns them
into exit codes; nothing here knows about the terminal.
"""

from collections.abc import Iterator


def one_line(text: str) -> str:
    """Text with spaces for its line breaks."""
    return " ".join(text.splitlines())


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type, without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")


def reasons(error: BaseException) -> Iterator[BaseException]:
    """The error, then its causes and contexts, latest first."""
    reason: BaseException | None = error
    while reason is not None:
        yield reason
        reason = reason.__cause__ or reason.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, whatever its type: PyTorch's is a RuntimeError on a CPU."""
    text = str(error)
    said = "not enough memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or said


class FerError(Exception):
    """Base of every error that `fer` raises on purpose; its text is one line, whatever names of files hold."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class UsageError(FerError):
    """The command was asked for what does not exist or fit: a layer, a location, an option's value."""

    exit_code = 2


class InputError(FerError):
    """A file or folder given by the user cannot be used: missing, damaged, empty or unfit."""

    exit_code = 3


class ArtifactError(FerError):
    """An artifact (`voxels.h5`, `model.h5`, `codebook.h5`) is missing, damaged, or of another version or kind."""

    exit_code = 4


class LineageError(ArtifactError):
    """Artifacts that do not stem from one another were given together."""


class ResourceError(FerError):
    """The machine would not give what was needed: memory, disk space, or leave to write."""

    exit_code = 5
