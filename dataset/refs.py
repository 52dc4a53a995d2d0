"""References to encoded examples in columns, so that a hundred thousand of them take tens of megabytes and open in a second."""
from __future__ import annotations

import base64
import binascii
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

KEY_BYTES = 32
NO_KEY = bytes(KEY_BYTES)
T = TypeVar("T")
References = tuple[tuple[str, tuple[int, ...]], ...]
TextRef = tuple[str, str, int]  # a caption, the key of its embeddings, and their length


@dataclass(frozen=True, slots=True)
class ExampleRef:
    """A CachedExample without its tensors: their keys and shapes. text_tokens: length of its embeddings. No mask: both None.

    alternatives: texts that may come in the caption's place; dropped: those that stand for a dropped caption. references: key and shape
    of each reference picture's latent.
    """

    name: str
    caption: str
    latent_key: str
    text_key: str
    mask_key: str | None
    latent_shape: tuple[int, ...]
    text_tokens: int
    mask_shape: tuple[int, ...] | None = None
    repeats: int = 1
    weight: float = 1.0
    regularisation: bool = False
    alternatives: tuple[TextRef, ...] = ()
    dropped: tuple[TextRef, ...] = ()
    references: References = ()

    @property
    def text_keys(self) -> list[str]:
        """Of all its texts, the caption's first."""
        return [self.text_key, *(key for _, key, _ in (*self.alternatives, *self.dropped))]


class Distinct(Generic[T]):
    """Values of which many are equal: each kept once, and a number for each place."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self.places = array("I")
        self._number: dict[T, int] = {}

    def append(self, value: T) -> None:
        self.places.append(self.number(value))

    def number(self, value: T) -> int:
        """Which of `values` it is; from now on it is one."""
        number = self._number.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def __getitem__(self, index: int) -> T:
        return self.values[self.places[index]]


class Keys:
    """Content keys in one block of bytes; None is kept as zeros."""

    def __init__(self, packed: bytes = b"") -> None:
        self.packed = bytearray(packed)

    def append(self, key: str | None) -> None:
        self.packed += NO_KEY if key is None else bytes.fromhex(key)

    def __len__(self) -> int:
        return len(self.packed) // KEY_BYTES

    def __getitem__(self, index: int) -> str | None:
        key = self.packed[index * KEY_BYTES:(index + 1) * KEY_BYTES]
        return None if key == NO_KEY else key.hex()

    def all(self) -> set[str]:
        whole = self.packed.hex()
        step = 2 * KEY_BYTES
        return {whole[start:start + step] for start in range(0, len(whole), step)} - {NO_KEY.hex()}


class RefTable(Sequence[ExampleRef]):
    """A sequence of ExampleRef that makes each when asked for it."""

    def __init__(self, refs: Iterable[ExampleRef] = ()) -> None:
        self.names: list[str] = []
        self.latents, self.masks = Keys(), Keys()
        # A caption's embeddings are kept once, however many pictures it has.
        self.texts: Distinct[TextRef] = Distinct()
        # Numbers of texts: alternatives, and those for a dropped caption.
        self.others: Distinct[tuple[tuple[int, ...], tuple[int, ...]]] = Distinct()
        self.shapes: Distinct[tuple[tuple[int, ...], tuple[int, ...] | None]] = Distinct()
        self.parts: Distinct[tuple[int, float, bool]] = Distinct()
        self.references: Distinct[References] = Distinct()
        for ref in refs:
            self.append(ref)

    def append(self, ref: ExampleRef) -> None:
        self.names.append(ref.name)
        self.latents.append(ref.latent_key)
        self.masks.append(ref.mask_key)
        self.texts.append((ref.caption, ref.text_key, ref.text_tokens))
        self.others.append((tuple(map(self.texts.number, ref.alternatives)), tuple(map(self.texts.number, ref.dropped))))
        self.shapes.append((ref.latent_shape, ref.mask_shape))
        self.parts.append((ref.repeats, ref.weight, ref.regularisation))
        self.references.append(ref.references)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> ExampleRef: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ExampleRef]: ...

    def __getitem__(self, index: int | slice) -> ExampleRef | Sequence[ExampleRef]:
        if isinstance(index, slice):
            return RefTable(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]  # raises IndexError outside, and counts negatives from the end
        caption, text_key, tokens = self.texts[i]
        latent_shape, mask_shape = self.shapes[i]
        alternatives, dropped = (tuple(self.texts.values[number] for number in numbers) for numbers in self.others[i])
        latent_key = self.latents[i]
        if latent_key is None:
            raise ValueError(f"{self.names[i]} has no latent; run Encode Training Set again")
        return ExampleRef(self.names[i], caption, latent_key, text_key, self.masks[i], latent_shape, tokens, mask_shape, *self.parts[i],
                          alternatives=alternatives, dropped=dropped, references=self.references[i])

    def keys(self, kind: str) -> set[str]:
        """All keys of "latents", "masks" or "texts"."""
        if kind == "texts":
            return {key for _, key, _ in self.texts.values}
        if kind == "masks":
            return self.masks.all()
        return self.latents.all() | {key for row in self.references.values for key, _ in row}

    def to_columns(self) -> dict[str, Any]:
        """What JSON can hold; from_columns gives the table back."""
        return {
            "names": self.names, "latents": _packed(self.latents), "masks": _packed(self.masks),
            "texts": self.texts.values, "text_of": self.texts.places.tolist(),
            "others": self.others.values, "other_of": self.others.places.tolist(),
            "shapes": self.shapes.values, "shape_of": self.shapes.places.tolist(),
            "parts": self.parts.values, "part_of": self.parts.places.tolist(),
            "references": self.references.values, "references_of": self.references.places.tolist(),
        }

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> RefTable:
        """Raises ValueError for columns that do not belong together. Tables of before there were references lack two columns."""
        table = cls()
        try:
            table.names = [str(name) for name in columns["names"]]
            table.latents, table.masks = (Keys(base64.b64decode(columns[name], validate=True)) for name in ("latents", "masks"))
            _fill(table.texts, columns["texts"], columns["text_of"], lambda row: (str(row[0]), bytes.fromhex(row[1]).hex(), int(row[2])))
            # Sets that were saved by an older version have captions alone.
            _fill(table.others, columns.get("others", [((), ())]), columns.get("other_of", [0] * len(table.names)),
                  lambda row: (_numbers(row[0], table.texts), _numbers(row[1], table.texts)))
            _fill(table.shapes, columns["shapes"], columns["shape_of"],
                  lambda row: (tuple(map(int, row[0])), None if row[1] is None else tuple(map(int, row[1]))))
            _fill(table.parts, columns["parts"], columns["part_of"], lambda row: (int(row[0]), float(row[1]), bool(row[2])))
            _fill(table.references, columns.get("references", [()]), columns.get("references_of", [0] * len(table.names)),
                  lambda row: tuple((bytes.fromhex(key).hex(), tuple(map(int, shape))) for key, shape in row))
        except (KeyError, TypeError, IndexError, OverflowError, binascii.Error) as error:
            raise ValueError(f"its columns are wrong ({type(error).__name__}: {error})") from error
        lengths = {len(column) for column in (table.names, table.latents, table.masks, table.texts.places, table.others.places,
                                              table.shapes.places, table.parts.places, table.references.places)}
        if len(lengths) != 1:
            raise ValueError(f"its columns have different lengths ({sorted(lengths)})")
        return table


def _fill(column: Distinct[T], rows: list[Any], places: list[int], make: Callable[[Any], T]) -> None:
    column.values = [make(row) for row in rows]
    column.places = array("I", places)
    column._number = {value: number for number, value in enumerate(column.values)}
    if len(column.places) and max(column.places) >= len(column.values):
        raise IndexError("a number points behind the values")


def _numbers(row: list[int], texts: Distinct[TextRef]) -> tuple[int, ...]:
    if not all(0 <= number < len(texts.values) for number in row):
        raise IndexError("a number points behind the texts")
    return tuple(map(int, row))


def _packed(keys: Keys) -> str:
    return base64.b64encode(keys.packed).decode("ascii")
