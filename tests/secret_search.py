"""Where a secret stands in a value: as it is, encoded, or cut into pieces."""

import base64
import pickle
from collections import defaultdict

from pydantic import BaseModel


def spellings(secret):
    """Return the bytes in which a secret may stand."""
    raw = secret.encode()
    found = {raw, raw[::-1], secret.encode("utf-16-le"), secret.encode("utf-16-be"), secret.encode("utf-32-le")}
    found |= {raw.hex().encode(), "".join(f"\\u{ord(one):04x}" for one in secret).encode()}
    found |= {"".join(f"%{one:02X}" for one in raw).encode(), " ".join(map(str, raw)).encode()}
    for shift in range(3):  # base64 at every alignment, without the letters that neighbours change
        encoded = base64.b64encode(b"x" * shift + raw)
        found |= {encoded[shift and 4 : len(raw) * 4 // 3 - 2], base64.urlsafe_b64encode(b"x" * shift + raw)[4:-8]}
    return {one for one in found if len(one) >= 8}


def is_in(secret, value):
    """Whether a secret can be found anywhere in a value."""
    said = _bytes(value)
    return any(one in said for one in spellings(secret)) or secret.encode() in said.lower()


def _bytes(value):
    """Return everything that a value says: pickled, and the texts and numbers of each path of names put together."""
    pieces = defaultdict(list)
    _collect(value, "", pieces, [])
    joined = [b"".join(one) for one in pieces.values() if len(one) > 1]
    return b"\0".join([_pickled(value), *joined])


def _pickled(value):
    try:
        return pickle.dumps(value)
    except Exception:  # noqa: BLE001 - what cannot be pickled is looked at as Python shows it
        return repr(value).encode("utf-8", "surrogatepass")


def _collect(value, path, pieces, inside):
    if isinstance(value, str):
        pieces[path].append(value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        pieces[path].append(value)
    elif isinstance(value, int):
        if 0 <= value < 256 and not isinstance(value, bool):
            pieces[path].append(bytes([value]))
    elif value is not None and not any(value is one for one in inside):
        inside.append(value)
        for key, one in _parts(value):
            _collect(one, path if key is None else f"{path}.{key}", pieces, inside)
        inside.pop()


def _parts(value):
    if isinstance(value, dict):
        return [(str(key), one) for key, one in value.items()]
    if isinstance(value, BaseModel):
        return [*vars(value).items(), *(value.__pydantic_extra__ or {}).items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(None, one) for one in value]
    return [*vars(value).items()] if hasattr(value, "__dict__") and not callable(value) else []
