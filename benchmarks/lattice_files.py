"""Gauge configurations read with their checksums: NERSC and ILDG on 16^4, in both precisions.

The peer reads site by site, as the description of the format says it: the words of each site are
summed (NERSC), its CRC-32 rotated by its rank (ILDG), in a plain loop. Figures are megabytes of CPU
time; the file is in the page cache. "All checks" adds plaquette, link trace, unitarity and
determinant.
"""

import json
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from physgen.io.lattice.content import read_header
from physgen.io.lattice.loops import measure
from physgen.io.lattice.writing import write_configuration

SHAPE, REPEATS = (16, 16, 16, 16), 5


def links():
    generator = np.random.default_rng(0)
    size = (*SHAPE, 4, 3, 3)
    q, _ = np.linalg.qr(generator.normal(size=size) + 1j * generator.normal(size=size))
    return q / (np.linalg.det(q) ** (1 / 3))[..., None, None]


def rotated(word, by):
    return ((word << by) | (word >> (32 - by))) & 0xFFFFFFFF


def site_by_site(path, header):
    """Return the links and the sums, in a loop over sites."""
    content = path.read_bytes()[header.offset :]
    n_bytes = header.size // header.volume
    result = np.empty((header.volume, 4, 3, 3), "c8" if header.bits == 32 else "c16")
    words = np.dtype(header.dtype.str[0] + "u4")
    total = suma = sumb = 0
    for rank in range(header.volume):
        site = content[rank * n_bytes : (rank + 1) * n_bytes]
        numbers = np.frombuffer(site, header.dtype)
        result[rank] = (numbers[::2] + 1j * numbers[1::2]).reshape(4, 3, 3)
        if "suma" in header.stored:
            suma ^= rotated(zlib.crc32(site), rank % 29)
            sumb ^= rotated(zlib.crc32(site), rank % 31)
        else:
            total = (total + int(np.frombuffer(site, words).sum(dtype="u8"))) % 2**32
    return result, total, suma, sumb


def seconds(function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    return time.process_time() - start, result


def rows_of(path, name):
    known, header = read_header(path)
    megabytes = header.size / 1e6
    rates = {"read": [], "plain": [], "checked": []}
    for _ in range(REPEATS):
        taken, raw = seconds(known.read, path, header, 0)
        plain, (values, *_) = seconds(site_by_site, path, header)
        more, _ = seconds(measure, raw.links)
        if raw.links.tobytes() != values.tobytes() or any(
            header.stored[key] != found for key, found in raw.sums.items()
        ):
            raise RuntimeError(f"{name}: the two readers do not agree")
        rates["read"].append(megabytes / taken)
        rates["plain"].append(megabytes / plain)
        rates["checked"].append(megabytes / (taken + more))
    rows = []
    for title, key in (("with checksum", "read"), ("with all checks", "checked")):
        ratios = [a / b for a, b in zip(rates[key], rates["plain"], strict=True)]
        rows.append(
            {
                "name": f"{name}, {title}",
                "value": statistics.median(rates[key]),
                "unit": "MB/s of CPU time, one core",
                "peer": "site by site in Python, checksum only",
                "peer_value": statistics.median(rates["plain"]),
                "ratio": {
                    "median": statistics.median(ratios),
                    "min": min(ratios),
                    "max": max(ratios),
                },
            }
        )
    return rows


def run():
    results, configuration = [], links()
    with tempfile.TemporaryDirectory() as folder:
        for key in ("nersc", "ildg"):
            for bits in (32, 64):
                path = Path(folder) / f"{key}{bits}"
                write_configuration(path, configuration, key, bits=bits)
                results += rows_of(path, f"{key.upper()}, {bits} bits")
    return {"benchmark": "lattice-files", "results": results}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
