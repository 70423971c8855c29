"""The id of an artifact, a hash of its content: equal content has an equal id, changed content another."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fer_cli.storage.declarations import DatasetSpec

_ID_LENGTH = 32
_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False)


def artifact_id(
    form: str,
    version: int,
    *,
    parents: Mapping[str, str],
    config: Mapping[str, Any],
    attributes: Mapping[str, Any],
    content: Mapping[str, tuple[tuple[int, ...], str]],
) -> str:
    """SHA-256, cut to 128 bits, over the identifying content of an artifact.

    `attributes` are those that the stage added, decoded; `content` has the shape and the digest of every dataset.

    Raises ValueError or TypeError where something is not JSON.
    """
    identity = {
        "format": form,
        "format_version": version,
        "parents": parents,
        "config": config,
        "attributes": attributes,
        "content": {name: [list(shape), digest] for name, (shape, digest) in content.items()},
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:_ID_LENGTH]


def content_bytes(content: np.ndarray | list[str], spec: DatasetSpec) -> bytes | memoryview:
    """What an array adds to its dataset's digest, the same however the rows are cut into calls."""
    if spec.dtype == "text":
        return "".join(f"{canonical_json(text)}\n" for text in content).encode()
    array = np.asarray(content)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def canonical_json(value: Any) -> str:
    """The one way in which a value is written as JSON. Raises ValueError of what JSON does not hold."""
    return _JSON.encode(value)
