"""An exported surrogate in coffea processors, on numpy, awkward and dask-awkward arrays.

```python
class Processor(processor.ProcessorABC):
    def __init__(self, folder):
        self.detector = SurrogateWrapper(folder)

    def process(self, events):
        jets = self.detector.collection(events, "GenJet")     # jets.pt, jets.eta, ...
```

The seed of a sample is a hash of what tells its event, and its object in the event, from all
others; of the model; and of the name of the collection: two collections of an event, and two
surrogates of it, have noise of their own. All that reaches the model is padded to blocks of one
size. So the bytes of a sample are the same in whatever chunks, partitions or order the events are
processed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray

from physgen.arguments import user_path, whole
from physgen.errors import CheckpointError, InputError, suggest
from physgen.export import ExportedSurrogate, load
from physgen.export import card as cards

BLOCK = 256
"""Rows the model is run with at a time."""
EVENT = ("run", "luminosityBlock", "event")
"""Branches that tell an event of NanoAOD from all others."""
_GOLDEN = 0x9E3779B97F4A7C15


class SurrogateWrapper:
    """Samples of an exported surrogate, drawn for events.

    It is pickled without its model, which is read again from the folder where it is used.

    Attributes:
        card: what is sampled, in which units, where it is valid.

    Args:
        folder: that `physgen export --to onnx` wrote, at the same path on all workers.
        seed: of all samples; another one is another draw for the same events.
        allow_outside_domain: accept conditions outside their domains; samples then have a field
            `outside` that tells which these are.
        threads: of onnxruntime within an operator; 0 is all cores.

    Raises:
        CheckpointError: card or model is missing, was changed, or is of another version.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        seed: int = 1,
        allow_outside_domain: bool = False,
        threads: int = 1,
    ) -> None:
        self.folder, self.seed, self.threads = user_path(folder), whole("seed", seed), threads
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed = {seed}: from 0 to 2^64 - 1")
        self.allow_outside_domain = allow_outside_domain
        self.card = cards.read(self.folder)
        self._model: ExportedSurrogate | None = None

    def __call__(
        self, ids: Sequence[Any], condition: Mapping[str, Any] | None = None, *, stream: str = ""
    ) -> Any:
        """Return samples of events: one an event, or one an object where conditions are jagged.

        Args:
            ids: integers (n,) each, which together tell an event from all others, such as run,
                luminosity block and event. Of objects their number in the event is added last.
            condition: by the card's names, in its units: (n,) each, or (n, objects) of equal
                lengths, or a number for all.
            stream: name of these samples: of equal ids, each stream has noise of its own.

        Returns:
            Of numpy arrays a dictionary of arrays, of awkward arrays records, of dask-awkward
            arrays such records to be computed; a field for each of the card's quantities.

        Raises:
            DomainError: a condition is unknown, missing, or outside its domain.
            InputError: ids are not integers, lengths differ, or values are missing.
        """
        return self._run(ids, condition or {}, self._fields, stream)

    def collection(self, events: Any, name: str, columns: Mapping[str, str] | None = None) -> Any:
        """Return records of as many objects as a collection of NanoAOD events has.

        The stream of their noise is the name of the collection.

        A word that all quantities begin with, before `_`, is left out: `Jet_pt` is the field `pt`.

        Args:
            events: of coffea's NanoEvents, or records with the fields of `EVENT`.
            name: of the collection of which the conditions are columns, "GenJet".
            columns: by the card's names of conditions, which else are read with or without the
                name of the collection before them: `GenJet_pt` and `pt` are its column `pt`.

        Raises:
            InputError: the events have no such collection, column or number; and see `__call__`.
        """
        ids = [_field(events, one, f"the number {one!r} of events, for the seeds") for one in EVENT]
        given = _field(events, name, f"the collection {name!r}")
        condition = {}
        for one in self.card.conditions:
            column = (columns or {}).get(one.name, one.name.removeprefix(f"{name}_"))
            condition[one.name] = _field(given, column, f"the column {column!r} in {name!r}")
        if not condition:
            raise InputError(
                f"{self.folder}: these samples have no conditions that {name!r} could hold; call "
                "the wrapper with the numbers of events, for one sample an event"
            )
        return self._run(ids, condition, _without_first_word(self._fields), name)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model, which cannot be pickled."""
        return {**self.__dict__, "_model": None}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """Return what decides the samples, by which Dask knows the same work again."""
        return type(self).__name__, self.card.card_sha256, self.seed, self.allow_outside_domain

    @property
    def model(self) -> ExportedSurrogate:
        """The model, loaded at its first use in a process."""
        if self._model is None:
            self._model = load(self.folder, self.threads, block=BLOCK)
            if self._model.card != self.card:
                raise CheckpointError(
                    f"{self.folder} holds another model here than where the wrapper was made: "
                    "copy the same folder to all workers"
                )
        return self._model

    @property
    def _fields(self) -> list[str]:
        return [one.name for one in self.card.outputs[0].quantities] or ["x"]

    def _run(
        self, ids: Sequence[Any], condition: Mapping[str, Any], fields: list[str], stream: str
    ) -> Any:
        """Return samples as `__call__` does, under other names."""
        arrays = [*ids, *condition.values()]
        call = partial(_of_awkward, self, fields, stream, len(ids), list(condition))
        if any(hasattr(array, "dask") for array in arrays):
            import dask_awkward

            return dask_awkward.map_partitions(call, *arrays, label="physgen")
        if any(isinstance(array, ak.Array) for array in arrays):
            return call(*arrays)
        return self._of_numpy(fields, stream, [*map(np.asarray, ids)], condition)

    def _of_numpy(
        self,
        fields: Sequence[str],
        stream: str,
        ids: Sequence[NDArray[Any]],
        condition: Mapping[str, Any],
    ) -> dict[str, NDArray[Any]]:
        """Return (n, ...) arrays by the names of quantities."""
        seeds = event_seeds(self.seed, ids, f"{self.card.model.sha256} {stream}")
        x, outside = self.model.sample(
            len(seeds),
            condition or None,
            seed=seeds,
            allow_outside_domain=self.allow_outside_domain,
        )
        if len(fields) == 1:
            found = {fields[0]: x[:, 0] if x.shape[1:] == (1,) else x}
        else:
            found = {name: x[..., i] for i, name in enumerate(fields)}
        return {**found, "outside": outside} if self.allow_outside_domain else found


def event_seeds(seed: int, ids: Sequence[ArrayLike], stream: str = "") -> NDArray[np.int64]:
    """Return (n,) seeds, each a hash of (n,) integers, which neither order nor number change.

    The integers are taken in turn through the finaliser of SplitMix64 (Steele, Lea and Flood,
    OOPSLA 2014), a bijection of 64 bits. Each is mixed before it is added to what came before: of
    two seeds, or streams, neither is the other one with its events in another order.

    Args:
        seed: from 0 to 2^64 - 1.
        ids: (n,) integers each.
        stream: another one has other seeds for the same integers.

    Raises:
        InputError: they are not integers of equal lengths.

    >>> whole, part = event_seeds(1, [[1, 1, 2], [7, 8, 7]]), event_seeds(1, [[1], [8]])
    >>> len(set(whole.tolist())), bool(whole[1] == part[0])
    (3, True)
    """
    columns = [np.asarray(one) for one in ids]
    if not columns or any(one.dtype.kind not in "iu" or one.ndim != 1 for one in columns):
        kinds = ", ".join(f"{one.dtype} of shape {one.shape}" for one in columns) or "none"
        raise InputError(f"numbers of events are integers (n,) each, and these are {kinds}")
    if len({len(one) for one in columns}) > 1:
        raise InputError(f"numbers of {[len(one) for one in columns]} events: give as many each")
    name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
    state = np.zeros(len(columns[0]), np.uint64)
    for column in (*(np.full(len(state), one, np.uint64) for one in (seed, name)), *columns):
        state = _mixed(state + _mixed(column.astype(np.uint64) + np.uint64(_GOLDEN)))
    return state.view(np.int64)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _of_awkward(
    wrapper: SurrogateWrapper,
    fields: Sequence[str],
    stream: str,
    n_ids: int,
    names: Sequence[str],
    *arrays: Any,
) -> Any:
    """Return records of `n_ids` ids and named conditions; of types alone, as Dask asks, a type."""
    traced = any(isinstance(a, ak.Array) and ak.backend(a) == "typetracer" for a in arrays)
    if traced:
        arrays = tuple(ak.typetracer.length_zero_if_typetracer(a) for a in arrays)
    ids, given = arrays[:n_ids], [_ragged(a) for a in arrays[n_ids:]]
    jagged = [a for a in given if isinstance(a, ak.Array) and a.ndim > 1]
    if any(a.ndim > 2 for a in jagged):
        raise InputError(f"conditions {', '.join(names)} are lists of lists: flatten them first")
    if jagged:
        ids = tuple(map(ak.Array, ids))
        # The number of an object is part of what it is known by.
        ids = *ids, ak.local_index(jagged[0], axis=1)
        try:
            arrays = tuple(ak.broadcast_arrays(*ids, *given))
        except ValueError as error:
            raise InputError(
                f"conditions {', '.join(names)} are of different numbers of objects, or events: "
                "take them from one collection"
            ) from error
    columns = [_flat(array) for array in (arrays if jagged else (*ids, *given))]
    condition = dict(zip(names, columns[len(ids) :], strict=True))
    found = wrapper._of_numpy(fields, stream, columns[: len(ids)], condition)
    records = ak.zip({key: ak.from_numpy(value) for key, value in found.items()}, depth_limit=1)
    if jagged:
        records = ak.unflatten(records, ak.num(jagged[0]))
    return ak.Array(records.layout.to_typetracer(forget_length=True)) if traced else records


def _ragged(array: Any) -> Any:
    """Return lists of one length as lists of any length, which are broadcast from the left."""
    if isinstance(array, np.ndarray) and array.ndim > 1:
        array = ak.from_numpy(array)
    return ak.from_regular(array, axis=None) if isinstance(array, ak.Array) else array


def _flat(array: Any) -> NDArray[Any]:
    """Return numbers, of whatever lists, as numpy's (n,)."""
    if not isinstance(array, ak.Array):
        return np.asarray(array)
    if ak.any(ak.is_none(array, axis=-1)):
        raise InputError("conditions hold missing values (None): leave such objects out")
    return np.asarray(ak.flatten(array, axis=None))


def _field(record: Any, name: str, what: str) -> Any:
    """Return a field of events, or say which there are."""
    fields: Iterable[str] = getattr(record, "fields", ())
    if name in fields:
        return record[name]
    place = getattr(record, "metadata", None) or {}
    file = f"{place['filename']}: " if "filename" in place else ""
    choices = suggest(name, fields) or f"; there are {', '.join(fields) or 'no fields'}"
    raise InputError(f"{file}the events lack {what}{choices}")


def _without_first_word(names: Sequence[str]) -> list[str]:
    """Return names without the word before `_` that they share."""
    parts = [name.partition("_") for name in names]
    shared = len({first for first, _, _ in parts}) == 1 and all(rest for _, _, rest in parts)
    return [rest if shared else name for name, (_, _, rest) in zip(names, parts, strict=True)]
