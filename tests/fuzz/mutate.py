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

VALUES = r"""null true false -1 0 1 2 3 31 1e6 1000000 2147483648 4294967296 9223372036854775808
-9223372036854775808 1180591620717411303424 0.5 -0.5 1e308 1e-320 NaN Infinity "" "x" "16" "/etc"
"../../../etc" "\u0000" "\ud800" [] [0] [-1] [1.5] ["a"] [1099511627776,1099511627776] [[1]] {}
{"a":1}""".split()
FLOATS = (math.nan, math.inf, -math.inf, 3e38, 1e30, 0.0)


def flip(data: bytes, rng: Random) -> bytes:
    """A few bits, anywhere or near an end."""
    changed = bytearray(data)
    low, high = rng.choice([(0, len(data)), (0, 4096), (len(data) - 4096, len(data))])
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(max(low, 0), min(high, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def fill(data: bytes, rng: Random) -> bytes:
    start, count = rng.randrange(len(data)), rng.choice([1, 2, 4, 8, 64, 512])
    value = rng.choice([0, 255, 128, rng.randrange(256)])
    count = min(count, len(data) - start)
    return data[:start] + bytes([value]) * count + data[start + count :]


def truncate(data: bytes, rng: Random) -> bytes:
    size = len(data)
    ends = [0, 1, 8, 9, 100, size // 2, size - 100, size - 1, rng.randrange(size)]
    return data[: rng.choice(ends)]


def insert(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice([1, 3, 8, 100])) + data[at:]


def delete(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 3, 8, 100]) :]


def swap(data: bytes, rng: Random) -> bytes:
    """Two of eight blocks change places."""
    size = -(-len(data) // 8)
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    i, j = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[i], blocks[j] = blocks[j], blocks[i]
    return b"".join(blocks)


def append(data: bytes, rng: Random) -> bytes:
    return data + rng.randbytes(rng.choice([1, 8, 1000]))


def number(data: bytes, rng: Random) -> bytes:
    """An extreme number somewhere in the head, or after one of the names that formats use."""
    at = rng.randrange(200)
    if names := [name for name in NAMES if name in data]:
        at = rng.choice([at, data.find(rng.choice(names)) + 4 + rng.randrange(40)])
    size = rng.choice([1, 2, 4, 4, 8])
    value = rng.choice([0, 1, 5, 48_000, 2 ** (8 * size) - 1, 2 ** (8 * size - 1)])
    value = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    return data[:at] + value + data[at + size :]


NAMES = b"""fmt data fact COMM SSND desc mvhd mdhd tkhd stts stsz stsc stco elst hdlr avcC mp4a
esds trun tfhd Xing Info OggS fLaC pakt IHDR IDAT RIFF strh strf idx1 trex sidx""".split()


def places(value, path=()) -> list[tuple]:
    """The paths of everything in a JSON value; of lists, the first few items."""
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:6] if isinstance(value, list) else items
    return [p for key, inner in items for p in ((*path, key), *places(inner, (*path, key)))]


def at(value, path: tuple):
    for key in path:
        value = value[key]
    return value


def json_value(data: bytes, rng: Random) -> bytes:
    values = json.loads(data)
    *path, key = rng.choice(places(values))
    at(values, path)[key] = json.loads(rng.choice(VALUES))
    return json.dumps(values).encode()


def json_number(data: bytes, rng: Random) -> bytes:
    values = json.loads(data)
    numbers = [path for path in places(values) if type(at(values, path)) in (int, float)]
    if not numbers:
        return json_value(data, rng)
    *path, key = rng.choice(numbers)
    old = at(values, path)[key]
    changed = (old + 1, old - 1, -old, old * 2, old // 2, float(old), old * 10**6, str(old), [old])
    at(values, path)[key] = rng.choice(changed)
    return json.dumps(values).encode()


def json_delete(data: bytes, rng: Random) -> bytes:
    values = json.loads(data)
    *path, key = rng.choice(places(values))
    del at(values, path)[key]
    return json.dumps(values).encode()


def json_twice(data: bytes, rng: Random) -> bytes:
    """A key that is there already, or an unknown one."""
    key = rng.choice([*json.loads(data), "x", "", "__class__", "model_type", "format", "auto_map"])
    return data.rstrip()[:-1] + f", {json.dumps(key)}: {rng.choice(VALUES)}}}".encode()


def json_text(data: bytes, rng: Random) -> bytes:
    texts = ("[" * 200_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "[1]", "NaN", '"x"')
    codes = (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b'{"\xff": 1}', b"null")
    return rng.choice([*(text.encode() for text in texts), *codes])


def parts(data: bytes) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


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
    entry = header[rng.choice(sorted(set(header) - {"__metadata__"}))]
    key = rng.choice([*ENTRY])
    change = rng.choice(ENTRY[key])
    entry[key] = change(entry[key]) if callable(change) else change
    return joined(header, body)


def tensor_names(data: bytes, rng: Random) -> bytes:
    """Tensors renamed, missing, exchanged, sharing their data; entries that are none."""
    header, body = parts(data)
    names = sorted(set(header) - {"__metadata__"})
    one, two = rng.sample(names, 2)
    first, second = header[one], header[two]
    changes = (
        *({"x." + one: first}, {"": first}, {"é\u2028\x00": first}, {one: second}),
        *({one: second, two: first}, {one: 5}, {one: None}, {one: {**first, "dtype": None}}),
        *({"__metadata__": value} for value in (5, None, [], {"a": 5})),
        {"extra": {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}},
    )
    if rng.random() < 0.3:
        del header[one]
    header |= rng.choice(changes)
    return joined(header, body)


def tensor_header(data: bytes, rng: Random) -> bytes:
    """A header that lies about its own size, or names a tensor twice."""
    header, body = parts(data)
    text = json.dumps(header)
    one, two = rng.sample(sorted(header), 2)
    if rng.random() < 0.3:
        return joined(f"{text[:-1]}, {json.dumps(one)}: {json.dumps(header[two])}}}", body)
    return joined(
        header, body, rng.choice([0, len(text) // 2, len(text) + 9, 2**40, 2**63, 2**64 - 1])
    )


def tensor_values(data: bytes, rng: Random) -> bytes:
    """One float, or all of a tensor."""
    header, body = parts(data)
    floats = sorted(k for k, v in header.items() if v.get("dtype") == "F32")
    low, high = header[rng.choice(floats)]["data_offsets"]
    if rng.random() < 0.5:
        low = rng.randrange(low, high, 4)
        high = low + 4
    value = struct.pack("<f", rng.choice(FLOATS)) * ((high - low) // 4)
    return joined(header, body[:low] + value + body[high:])


def state(data: bytes):
    """What a .pt file holds, and the state dict in it."""
    import torch

    whole = torch.load(io.BytesIO(data), weights_only=False)
    return whole, whole.get("state_dict", whole)


def saved(value, **options) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def torch_tensor(data: bytes, rng: Random) -> bytes:
    """Another kind of tensor, or another thing, in a tensor's place."""
    import torch

    whole, tensors = state(data)
    name = rng.choice([*tensors])
    t = tensors[name].float()
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
    tensors[name] = rng.choice(makers)()
    return saved(whole)


def torch_names(data: bytes, rng: Random) -> bytes:
    import torch

    whole, tensors = state(data)
    one, two = rng.sample([*tensors], 2)
    key = rng.choice([None, 5, ("a", 1), one + ".x", two, ""])
    t = tensors.pop(one)
    if key is not None:
        tensors[key] = t
    others = ({"model": whole}, {"state_dict": {"state_dict": tensors}}, {}, [t], None, 5, "x", t)
    others += tuple({"state_dict": value} for value in (None, 5, [], torch.zeros(3)))
    return saved(rng.choice([whole] * 12 + [*others]))


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EXECUTED = "executed"  # the file that a pickle's code leaves behind


def torch_code(data: bytes, rng: Random) -> bytes:
    """A pickle that wants to run code, or to fill the memory."""
    whole, tensors = state(data)
    call = rng.choice([
        *(Call(os.system, f"touch {EXECUTED}"), Call(eval, f"open({EXECUTED!r}, 'w')")),
        *(Call(open, EXECUTED, "w"), Call(getattr, os, "system")),
        *(Call(bytearray, 2**34), Call(list, range(10**9)), Call(os.kill, 0, 0), Call(print, "x")),
    ])  # fmt: skip
    if rng.random() < 0.2:
        return pickle.dumps(call, protocol=rng.choice([0, 2, 4]))
    if rng.random() < 0.2:
        return zipped(data, lambda name, _: pickle.dumps(call, 2) if name.endswith(".pkl") else _)
    tensors["extra"] = rng.choice([call, [{"a": (call,)}], {1: call}])
    if rng.random() < 0.3:
        whole = call
    return saved(whole, _use_new_zipfile_serialization=rng.random() < 0.7)


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
    """A member of the zip that is shorter, empty, missing, another's, larger than memory should
    be, or no longer what it was."""
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    rare = [name for name in names if "/data/" not in name]
    chosen = rng.choice([rng.choice(names), rng.choice(rare), rare[0]])  # the pickle is first
    other = zipfile.ZipFile(io.BytesIO(data)).read(rng.choice(names))
    changes: list[Callable] = [
        *(lambda old: None, lambda old: b"", lambda old: old[: len(old) // 2], lambda old: old * 2),
        *(lambda old: other, lambda old: flip(old, rng) if old else b"x", lambda old: b"999"),
        lambda old: bytes(3 * 10**8),
    ]
    if chosen.endswith("pkl"):
        changes += [lambda old: rng.choice(PICKLES), lambda old: flip(old, rng)] * 2
    change = rng.choice(changes)
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return zipped(data, lambda name, old: change(old) if name == chosen else old, method)


ANY = (flip, flip, fill, truncate, truncate, insert, delete, swap, append)
JSON = (json_value, json_value, json_number, json_number, json_delete, json_twice, json_text)
SAFETENSORS = (tensor_entry, tensor_names, tensor_header, tensor_values)
TORCH = (torch_tensor, torch_names, torch_code, torch_member)
SPECIAL = {".json": JSON, ".safetensors": SAFETENSORS, ".pt": TORCH, ".pth": TORCH}
SOUND = (*ANY, number, number, number, number)
FILES: dict[str, Callable[[Path], object]] = {  # what may stand in a file's place
    "missing": lambda path: None,
    "empty": Path.touch,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to(os.devnull),
    "text": lambda path: path.symlink_to("/etc/hosts"),
    "pipe": os.mkfifo,
}
BY_NAME = {f.__name__: f for f in (*ANY, *JSON, *SAFETENSORS, *TORCH, number)}


def choose(name: str, rng: Random) -> str:
    """The name of a mutation that suits a file's."""
    tables = ANY, SPECIAL.get(Path(name).suffix, ANY)
    names = [*(rng.choice(table).__name__ for table in tables), rng.choice([*FILES])]
    return rng.choices(names, [30, 70, 6])[0]


def apply(path: Path, mutation: str, seed: str) -> None:
    """Change a file in its place."""
    if mutation in FILES:
        path.unlink()
        FILES[mutation](path)
    else:
        data = BY_NAME[mutation](path.read_bytes(), Random(seed))
        path.unlink()  # it may be a link to the original
        path.write_bytes(data)
