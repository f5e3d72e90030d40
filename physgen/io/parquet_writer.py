"""Parquet files of events, written piece by piece: a row group a batch, lists where masked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from physgen.batch import Batch, Schema
from physgen.columns import branches
from physgen.io.parquet import needs_pyarrow
from physgen.io.writer import Append, atomic


@contextmanager
def parquet_writer(
    path: Path,
    schema: Schema,
    *,
    weight: str = "weight",
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Append]:
    """Write batches as a Parquet table with one column a variable, in the variable's own type.

    Masked samples of shape (items, columns) become columns of lists. Pages carry checksums.

    Args:
        path: of the output.
        schema: names and types of the columns, kept in the file's metadata as `physgen_schema`.
        weight: name of the column of event weights, if the batches have weights.
        attributes: further metadata, by name.
        overwrite: replace an existing file.

    Raises:
        FormatError: the package pyarrow is not installed.
    """
    needs_pyarrow(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    stated = {**(attributes or {}), "physgen_schema": json.dumps(schema.to_dict())}
    metadata = {name: str(value) for name, value in stated.items()}
    with atomic(path, overwrite) as part:
        writer: pq.ParquetWriter | None = None
        try:

            def append(batch: Batch) -> None:
                nonlocal writer
                table = pa.table(_arrow(branches(batch, schema, weight)), metadata=metadata)
                if writer is None:
                    writer = pq.ParquetWriter(part, table.schema, write_page_checksum=True)
                writer.write_table(table)

            yield append
        finally:
            if writer is not None:
                writer.close()


def _arrow(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return numpy and awkward columns as Arrow arrays; those of one counter are taken apart."""
    import awkward as ak
    import pyarrow as pa

    result: dict[str, Any] = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            result[name] = pa.array(column)
            continue
        members = {f"{name}_{field}": column[field] for field in ak.fields(column)}
        for member, lists in (members or {name: column}).items():
            offsets = np.concatenate([[0], np.cumsum(ak.num(lists).to_numpy())])
            values = pa.array(ak.flatten(lists).to_numpy())
            result[member] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    return result
