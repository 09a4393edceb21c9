"""What can be wrong with a file: functions of its bytes and of a random generator."""

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

VALUES = r"""null true false -1 0 1 2 3 31 1e6 1000000 2147483648 4294967296 9223372036854775808
-9223372036854775808 1180591620717411303424 0.5 -0.5 1e308 1e-320 NaN Infinity "" "x" "16" "/etc"
"../../../etc" "\u0000" "\ud800" [] [0] [-1] [1.5] ["a"] [1099511627776,1099511627776] [[1]] {}
{"a":1}""".split()
FLOATS = (math.nan, math.inf, -math.inf, 3e38, 1e30, 0.0)
NAMES = b"""fmt data fact COMM SSND desc mvhd mdhd tkhd stts stsz stsc stco elst hdlr avcC mp4a
esds trun tfhd Xing Info OggS fLaC pakt IHDR IDAT RIFF strh strf idx1 trex sidx""".split()


def flip(data: bytes, rng: Random) -> bytes:
    """A few bits, anywhere or near an end."""
    changed = bytearray(data)
    size = len(data)
    low, high = rng.choice([(0, size), (0, min(4096, size)), (max(0, size - 4096), size)])
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def splice(data: bytes, rng: Random) -> bytes:
    """Something else, or nothing, in the place of a piece, often of all that follows."""
    size = len(data)
    start = rng.choice([rng.randrange(size)] * 5 + [0, 1, 8, 100, size // 2, size - 100, size - 1])
    start, count = max(start, 0), rng.choice([0, 1, 3, 8, 100, size, size])
    new = rng.choice([b"", rng.randbytes(rng.choice([1, 8, 100])), b"\0" * 8, b"\xff" * 64])
    return data[:start] + new + data[start + count :]


def swap(data: bytes, rng: Random) -> bytes:
    """Two of eight blocks change places."""
    size = -(-len(data) // 8)
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    i, j = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[i], blocks[j] = blocks[j], blocks[i]
    return b"".join(blocks)


def number(data: bytes, rng: Random) -> bytes:
    """An extreme number somewhere in the head, or after one of the names that formats use."""
    at = rng.randrange(200)
    if names := [name for name in NAMES if name in data]:
        at = rng.choice([at, data.find(rng.choice(names)) + 4 + rng.randrange(40)])
    size = rng.choice([1, 2, 4, 4, 8])
    value = rng.choice([0, 1, 5, 48_000, 2 ** (8 * size) - 1, 2 ** (8 * size - 1)])
    value = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    return data[:at] + value + data[at + size :]


def places(value) -> list[tuple]:
    """Every object or list in a JSON value, with a key; of lists, the first few."""
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:6] if isinstance(value, list) else items
    return [place for key, inner in items for place in ((value, key), *places(inner))]


def json_place(data: bytes, rng: Random) -> bytes:
    """A value that is another, missing, or there twice; most often a number."""
    values = json.loads(data)
    found = places(values)
    numbers = [(inside, key) for inside, key in found if type(inside[key]) in (int, float)]
    inside, key = rng.choice(numbers if numbers and rng.random() < 0.5 else found)
    old, how = inside[key], rng.random()
    if how < 0.1:
        key = rng.choice([*values, "x", "", "__class__", "format", "auto_map"])
        return data.rstrip()[:-1] + f", {json.dumps(key)}: {rng.choice(VALUES)}}}".encode()
    if how < 0.2:
        del inside[key]
    elif how < 0.6 and isinstance(old, (int, float)):
        near = old + 1, old - 1, -old, old * 2, old // 2, float(old), old * 10**6, str(old), [old]
        inside[key] = rng.choice(near)
    else:
        inside[key] = json.loads(rng.choice(VALUES))
    return json.dumps(values).encode()


def json_text(data: bytes, rng: Random) -> bytes:
    texts = ("[" * 200_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "[1]", "NaN", '"x"')
    codes = (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b'{"\xff": 1}', b"null")
    return rng.choice([*(text.encode() for text in texts), *codes])


def parts(data: bytes) -> tuple[dict, bytes]:
    """Header, less its notes, and data of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, data[8 + size :]


def joined(header: dict | str, body: bytes, size: int | None = None) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if size is None else size) + text + body


ENTRY: dict[str, list] = {  # what becomes of a tensor's entry in the header
    "dtype": [*"I8 U8 F64 I64 I32 BOOL F8_E4M3 C64 XX BF16 F16".split(), "", 5, None],
    "shape": [
        *([2**40, 2**40], [2**63], [2**31], [2**62, 4], [2**64], [], [0], [1.5], "x", None, ["4"]),
        *(lambda s: s[::-1], lambda s: [1, *s], lambda s: [-x for x in s]),
    ],
    "data_offsets": [
        *([-8, 8], [0.5, 4.5], [2**63, 2**63 + 4], lambda o: o[::-1], lambda o: [o[0], o[0] + 4]),
        lambda o: [o[0] + 10**9, o[1] + 10**9],
    ],
}


def tensor_entry(data: bytes, rng: Random) -> bytes:
    header, body = parts(data)
    entry = header[rng.choice(sorted(header))]
    key = rng.choice([*ENTRY])
    change = rng.choice(ENTRY[key])
    entry[key] = change(entry[key]) if callable(change) else change
    return joined(header, body)


def tensor_names(data: bytes, rng: Random) -> bytes:
    """Tensors renamed, missing, exchanged, twice; a header that lies about its own size."""
    header, body = parts(data)
    one, two = rng.sample(sorted(header), 2)
    first, second, text = header[one], header[two], json.dumps(header)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
    changes = (
        *({"x." + one: first}, {"": first}, {"é\u2028\x00": first}, {one: second}, {one: 5}),
        *({one: second, two: first}, {one: None}, {"extra": empty}),
        *({"__metadata__": value} for value in (5, None, [], {"a": 5})),
    )
    how = rng.random()
    if how < 0.1:
        return joined(f"{text[:-1]}, {json.dumps(one)}: {json.dumps(second)}}}", body)
    if how < 0.3:
        sizes = 0, len(text) // 2, len(text) + 9, 2**40, 2**63, 2**64 - 1
        return joined(header, body, rng.choice(sizes))
    if how < 0.5:
        del header[one]
    return joined(header | rng.choice(changes), body)


def tensor_values(data: bytes, rng: Random) -> bytes:
    """One float, or all of a tensor."""
    header, body = parts(data)
    kinds = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
    entry = rng.choice([header[name] for name in sorted(header) if header[name]["dtype"] in kinds])
    kind, (low, high) = kinds[entry["dtype"]], entry["data_offsets"]
    if rng.random() < 0.5:
        low = rng.randrange(low, high, kind.itemsize)
        high = low + kind.itemsize
    with np.errstate(over="ignore"):
        value = np.full((high - low) // kind.itemsize, rng.choice(FLOATS)).astype(kind)
    return joined(header, body[:low] + value.tobytes() + body[high:])


def torch_load(data: bytes):
    """What a .pt file holds, and the state dict in it."""
    import torch

    whole = torch.load(io.BytesIO(data), weights_only=False)
    return whole, whole.get("state_dict", whole)


def torch_save(value, **options) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def torch_tensor(data: bytes, rng: Random) -> bytes:
    """Another kind of tensor, or another thing, in a tensor's place; another name; another tree."""
    import torch

    whole, tensors = torch_load(data)
    name, two = rng.sample([*tensors], 2)
    t = tensors.pop(name).float()
    spread = torch.zeros(1).expand
    makers: list[Callable] = [
        *(t.double, t.half, t.bfloat16, t.to_sparse, lambda: t.requires_grad_() * 1, t.flatten),
        *(partial(t.to, d) for d in (torch.int8, torch.int64, torch.bool, torch.complex64)),
        *(lambda: t.to("meta"), lambda: t.to(torch.float8_e4m3fn), lambda: torch.nn.Parameter(t)),
        lambda: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        *(lambda: t.to(torch.complex64).conj(), lambda: torch.stack([t, t], -1)[..., 0]),
        *(lambda: spread(t.shape or (1,)), lambda: spread(2**20, 2**14), lambda: spread(2**40)),
        *(lambda: spread(30_000, 30_000), lambda: t[None], lambda: torch.zeros(0), lambda: t * 0),
        *(partial(torch.full_like, t, value) for value in FLOATS),
        *(lambda: 1, lambda: "x", lambda: None, lambda: [1.0], lambda: {"a": t}),
    ]
    how = rng.random()
    if how < 0.6:
        tensors[name] = rng.choice(makers)()
    elif how < 0.8:
        tensors[rng.choice([5, ("a", 1), name + ".x", two, ""])] = t
    elif how < 0.9:
        trees = {"model": whole}, {"state_dict": {"state_dict": tensors}}, {}, [t], None, 5, "x", t
        return torch_save(rng.choice([*trees, *({"state_dict": x} for x in (None, 5, [], t))]))
    return torch_save(whole)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EXECUTED = "executed"  # the file that a pickle's code leaves behind


def torch_code(data: bytes, rng: Random) -> bytes:
    """A pickle that wants to run code, or to fill the memory."""
    whole, tensors = torch_load(data)
    call = rng.choice([
        *(Call(os.system, f"touch {EXECUTED}"), Call(eval, f"open({EXECUTED!r}, 'w')")),
        *(Call(open, EXECUTED, "w"), Call(getattr, "x", "join"), Call(os.kill, 0, 0)),
        *(Call(bytearray, 2**34), Call(list, range(10**9)), Call(print, "x")),
    ])  # fmt: skip
    how = rng.random()
    if how < 0.2:
        return pickle.dumps(call, protocol=rng.choice([0, 2, 4]))
    if how < 0.4:
        return zipped(
            data, lambda name, old: pickle.dumps(call, 2) if name.endswith("pkl") else old
        )
    tensors["extra"] = rng.choice([call, [{"a": (call,)}], {1: call}])
    whole = call if how < 0.5 else whole
    return torch_save(whole, _use_new_zipfile_serialization=how < 0.9)


def zipped(data: bytes, change: Callable, method=zipfile.ZIP_STORED) -> bytes:
    """The same zip with change(name, content) in its members; without those that become None."""
    old, file = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return file.getvalue()


PICKLES = (
    *(b"", b".", b"N.", b"}.", b"garbage"),
    *(b"\x80\x02X\xff\xff\xff\x7f.", b"\x80\x02]r\xff\xff\xff\x7f."),
    b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
)


def torch_member(data: bytes, rng: Random) -> bytes:
    """A member of the zip that is shorter, empty, missing, another's, damaged or enormous."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    rare = [name for name in names if "/data/" not in name]  # the pickle is the first of them
    chosen, other = rng.choice([rng.choice(names), rng.choice(rare), rare[0]]), rng.choice(names)
    changes: list[Callable] = [
        *(lambda old: None, lambda old: b"", lambda old: old[: len(old) // 2], lambda old: old * 2),
        *(lambda old: archive.read(other), lambda old: flip(old or b"x", rng), lambda old: b"999"),
        lambda old: bytes(3 * 10**8),
    ]
    if chosen == rare[0]:
        changes += [lambda old: rng.choice(PICKLES), lambda old: flip(old, rng)] * 2
    change = rng.choice(changes)
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return zipped(data, lambda name, old: change(old) if name == chosen else old, method)


ANY = (flip, splice, splice, swap)
TORCH = (torch_tensor, torch_tensor, torch_code, torch_member)
SPECIAL = {
    ".json": (json_place, json_place, json_place, json_text),
    ".safetensors": (tensor_entry, tensor_names, tensor_values),
    **{".pt": TORCH, ".pth": TORCH},
}
MEDIA = (*ANY, number, number)
FILES: dict[str, Callable[[Path], object]] = {  # what may stand in a file's place
    "missing": lambda path: None,
    "empty": Path.touch,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "text": lambda path: path.symlink_to("/etc/hosts"),
    "pipe": os.mkfifo,
}
BY_NAME = {f.__name__: f for table in (MEDIA, *SPECIAL.values()) for f in table}


def choose(name: str, rng: Random) -> str:
    """The name of a mutation that suits a file's."""
    tables = ANY, SPECIAL.get(Path(name).suffix, ANY)
    names = [*(rng.choice(table).__name__ for table in tables), rng.choice([*FILES])]
    return rng.choices(names, [30, 70, 6])[0]


def apply(path: Path, mutation: str, seed: str) -> None:
    """Change a file in its place."""
    data = path.read_bytes()
    path.unlink()  # it may be a link to the original
    if mutation in FILES:
        FILES[mutation](path)
    else:
        path.write_bytes(BY_NAME[mutation](data, Random(seed)))
