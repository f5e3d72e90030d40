"""Gauge configurations, and files of them written site by site from the descriptions of formats."""

import itertools
import struct
import zlib

import numpy as np


def random_links(shape=(4, 2, 6, 2), n=3, seed=0):
    """Return (T, Z, Y, X, 4, n, n) random elements of SU(n)."""
    generator = np.random.default_rng(seed)
    size = (*shape, len(shape), n, n)
    q, r = np.linalg.qr(generator.normal(size=size) + 1j * generator.normal(size=size))
    phases = np.diagonal(r, axis1=-2, axis2=-1)
    q = q * (phases / abs(phases))[..., None, :]
    return q / (np.linalg.det(q) ** (1 / n))[..., None, None]


def plaquette_of(links):
    """Return the mean of Re tr P / n over space, over time and over all, loop by loop."""
    shape, n = links.shape[:4], links.shape[-1]
    axis_of = {0: 3, 1: 2, 2: 1, 3: 0}
    values = {True: [], False: []}
    for site in np.ndindex(*shape):
        for mu, nu in itertools.combinations(range(4), 2):
            ahead = {}
            for direction in (mu, nu):
                moved = list(site)
                moved[axis_of[direction]] = (moved[axis_of[direction]] + 1) % shape[
                    axis_of[direction]
                ]
                ahead[direction] = tuple(moved)
            product = links[site][mu] @ links[ahead[mu]][nu]
            product = product @ links[ahead[nu]][mu].conj().T @ links[site][nu].conj().T
            values[nu == 3].append(product.trace().real / n)
    return (*(np.mean(values[key]) for key in (False, True)), np.mean(values[True] + values[False]))


def pack(matrices, kind):
    """Return the bytes of complex numbers as pairs of real ones."""
    flat = np.asarray(matrices).reshape(-1)
    return np.stack([flat.real, flat.imag], 1).astype(kind).tobytes()


def nersc(path, links, kind=">f8", rows=3, **changes):
    shape, n = links.shape[:4], links.shape[-1]
    body = b"".join(pack(links[site][:, :rows], kind) for site in np.ndindex(*shape))
    words = struct.unpack(f"{kind[0]}{len(body) // 4}I", body)
    order = "BIG" if kind[0] == ">" else "LITTLE"
    header = {
        "DATATYPE": f"4D_SU{n}_GAUGE" + f"_{n}x{n}" * (rows == n),
        **{f"DIMENSION_{i}": shape[4 - i] for i in range(1, 5)},
        "CHECKSUM": f"{sum(words) % 2**32:x}",
        "LINK_TRACE": np.trace(links, axis1=-2, axis2=-1).real.mean() / n,
        "PLAQUETTE": plaquette_of(links)[2],
        "FLOATING_POINT": f"IEEE{8 * int(kind[2])}{order}",
        **changes,
    }
    lines = "".join(f"{key} = {value}\n" for key, value in header.items() if value is not None)
    path.write_bytes(b"BEGIN_HEADER\n" + lines.encode() + b"END_HEADER\n" + body)
    return path


def rotated(word, by):
    return ((word << by) | (word >> (32 - by))) & 0xFFFFFFFF


def record(name, content):
    head = struct.pack(">LHHQ128s", 0x456789AB, 1, 0, len(content), name.encode())
    return head + content + bytes(-len(content) % 8)


def ildg(path, links, kind=">f8", prefix="", form=True, data="ildg-binary-data", dims=True):
    """Write a LIME file; `prefix` stands before the checksums."""
    t, z, y, x = links.shape[:4]
    n = links.shape[-1]
    sites = [pack(links[site], kind) for site in np.ndindex(t, z, y, x)]
    suma = sumb = 0
    for rank, site in enumerate(sites):
        suma ^= rotated(zlib.crc32(site), rank % 29)
        sumb ^= rotated(zlib.crc32(site), rank % 31)
    content = b""
    if dims:
        content += record(
            "scidac-private-file-xml", f"<scidacFile><dims>{x} {y} {z} {t} </dims>".encode()
        )
    if form:
        content += record(
            "ildg-format",
            f"<ildgFormat><field>su{n}gauge</field><precision>{8 * int(kind[2])}</precision>"
            f"<lx>{x}</lx><ly>{y}</ly><lz>{z}</lz><lt>{t}</lt></ildgFormat>\0".encode(),
        )
    content += record(data, b"".join(sites))
    text = f"<suma>{prefix}{suma:x}</suma><sumb>{prefix}{sumb:x}</sumb>"
    path.write_bytes(content + record("scidac-checksum", text.encode()))
    return path


def milc(path, links, order="<"):
    t, z, y, x = links.shape[:4]
    body = b"".join(pack(links[site], f"{order}f4") for site in np.ndindex(t, z, y, x))
    sums = {29: 0, 31: 0}
    for rank, word in enumerate(struct.unpack(f"{order}{len(body) // 4}I", body)):
        for period in sums:
            sums[period] ^= rotated(word, rank % period)
    head = struct.pack(f"{order}5i64siII", 20103, x, y, z, t, b"today", 0, sums[29], sums[31])
    path.write_bytes(head + body)
    return path


def openqcd(path, links):
    t, z, y, x = links.shape[:4]
    content = struct.pack("<4id", t, x, y, z, 3 * plaquette_of(links)[2])
    for a, b, c, d in itertools.product(range(t), range(x), range(y), range(z)):
        if (a + b + c + d) % 2 == 0:
            continue
        behind = [((a - 1) % t, d, c, b), (a, d, c, (b - 1) % x), (a, d, (c - 1) % y, b)]
        behind.append((a, (d - 1) % z, c, b))
        for mu, before in zip((3, 0, 1, 2), behind, strict=True):
            content += pack(links[a, d, c, b, mu], "<f8") + pack(links[before][mu], "<f8")
    path.write_bytes(content)
    return path
