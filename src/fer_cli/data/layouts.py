"""Where a file lies → its class and split: the layouts of folders that are known."""

from fer_cli.data.entries import SPLIT_WORDS, Entry
from fer_cli.data.formats.scans import stem_of


def placed(path: str, root: str) -> Entry:
    """The entry at a path, named by its stem; `root` stands above, so that a class folder can itself be the source."""
    # A file name need not be UTF-8, but a sample's name is.
    readable = path.encode(errors="replace").decode()
    *folders, file = [root, *readable.replace("\\", "/").split("/")]
    stem = stem_of(file)
    if split := SPLIT_WORDS.get(folders[-1].lower()):
        above = [folder for folder in folders[:-1][-2:] if not folder.isdecimal()]
        if above:
            return Entry(stem, path, above[-1], split)
    elif len(folders) > 1 and (split := SPLIT_WORDS.get(folders[-2].lower())):
        return Entry(stem, path, folders[-1], split)
    return Entry(stem, path, None, "unlabelled")


def class_folder(path: str) -> str | None:
    """The folder that a shape lies in, inside the source, past 3DShapeNets' folders of a resolution."""
    readable = path.encode(errors="replace").decode()
    folders = [folder for folder in readable.replace("\\", "/").split("/")[:-1] if folder not in ("", ".")]
    while folders and folders[-1].isdecimal():
        folders.pop()
    return folders[-1] if folders else None
