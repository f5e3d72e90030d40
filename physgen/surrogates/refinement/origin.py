"""Which conditions of a surrogate are the columns of the events that its samples are made from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from physgen.batch import Schema
from physgen.errors import RecipeError, suggest


@dataclass(frozen=True)
class Origin:
    """Which conditions the columns of a sample were before, and which of them stay.

    Attributes:
        columns: (D,) numbers of the conditions.
        unchanged: numbers of the columns that a sample takes from its event as they are.

    >>> import torch
    >>> from physgen.batch import Variable
    >>> given = (Variable("fast_energy"), Variable("fast_y"), Variable("fast_x"))
    >>> schema = Schema((2,), (Variable("x"), Variable("y")), given)
    >>> origin = Origin.of(schema, "bridge", ("y",))
    >>> origin.columns, origin.restored(torch.zeros(1, 2), torch.tensor([[3.0, 4.0, 5.0]]))
    ((2, 1), tensor([[0., 4.]]))
    """

    columns: tuple[int, ...]
    unchanged: tuple[int, ...]

    @classmethod
    def of(cls, schema: Schema, who: str, unchanged: tuple[str, ...] = ()) -> Origin:
        """Find them by their names: section of `data`, `_`, column.

        There may be other conditions, such as what is known of the incoming particle.

        Args:
            schema: of the samples, with their conditions.
            who: needs them, for the message.
            unchanged: names of the columns that stay.

        Raises:
            RecipeError: some columns have no condition of their name and unit, or a name is none.
        """
        for name in unchanged:
            if name not in schema.names:
                raise RecipeError(
                    f"surrogate.unchanged: there is no column {name!r}{suggest(name, schema.names)}"
                )
        stay = tuple(schema.names.index(name) for name in unchanged)
        known = {(v.name, v.unit): i for i, v in enumerate(schema.condition)}
        wanted = [(v.name, v.unit) for v in schema.variables]
        first = wanted[0][0]
        for name, _ in known:
            prefix = name.removesuffix(first)
            places = [known.get((prefix + column, unit)) for column, unit in wanted]
            found = tuple(place for place in places if place is not None)
            if name == prefix + first and prefix.endswith("_") and len(found) == len(wanted):
                return cls(found, stay)
        raise RecipeError(
            f"surrogate.kind: {who} makes events from events, which need the columns "
            f"{', '.join(schema.names)}, in these units; its conditions are "
            f"{', '.join(name for name, _ in known) or 'none'}: name two samples in `data`, with "
            "the same fields"
        )

    def events(self, condition: Tensor) -> Tensor:
        """Return the events (B, D) among conditions (B, C)."""
        return condition[:, self.columns]

    def restored(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return samples (B, D) with the columns of their events that stay as they are."""
        if not self.unchanged:
            return x
        x = x.clone()
        x[:, self.unchanged] = self.events(condition)[:, self.unchanged].to(x)
        return x
