"""Where the words of a prompt stand among the tokens that a diffusion model reads, by the text encoder's own tokenizer."""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import comfy.sd
from comfy.sd1_clip import escape_important, token_weights, unescape_important

from .text import tokenizer_options
from .text_padding import TextPadding, is_int
from .text_tokens import cut_tokens

SPECIAL = re.compile(r"<.{2,}>")  # <|endoftext|>, </s>, <pad>: no text
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
OBJECT = "\ufffc"  # stands for what is no text, and in no prompt
WORD = re.compile(r"\w+(?:['’-]\w+)*")
# GPT-2's vocabulary files show every byte as a letter: printable bytes as themselves, the others from 256 on.
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTE_OF = {chr(b): b for b in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in PRINTABLE)}


@dataclass(frozen=True, slots=True)
class PromptWords:
    """`text`: the prompt without weights and brackets. `places`: for each of its characters the tokens that it is read from, as
    positions in the conditioning; a blank has none.
    """

    text: str
    places: tuple[frozenset[int], ...]

    def positions(self, phrase: str) -> tuple[int, ...]:
        """The tokens of every time that the phrase stands in the prompt. Raises ValueError where it does not."""
        found = [range(match.start(), match.end()) for match in phrase_pattern(phrase).finditer(self.text)]
        if not found:
            raise ValueError(f"the prompt {self.text[:80]!r} does not have the words {phrase!r}; write them as they stand in the prompt")
        places = sorted(set().union(*(self.places[i] for span in found for i in span)))
        if not places:
            raise ValueError(f"the model does not read {phrase!r}: the prompt was cut before it, or its tokenizer has no letters for it; "
                             "use a shorter prompt, another text padding or other words")
        return tuple(places)

    def all(self) -> dict[str, tuple[int, ...]]:
        """Every word of the prompt in lower case with its tokens, in order; without those that are not read."""
        words: dict[str, set[int]] = {}
        for match in WORD.finditer(self.text):
            words.setdefault(match.group().lower(), set()).update(*self.places[match.start():match.end()])
        return {word: tuple(sorted(places)) for word, places in words.items() if places}


def phrase_pattern(phrase: str) -> re.Pattern[str]:
    """Whole words, where the script has blanks between words; the case does not matter."""
    def edge(letter: str, pattern: str) -> str:
        return pattern if letter.isdigit() or letter.lower() != letter.upper() else ""

    parts = phrase.split()
    if not parts:
        raise ValueError("no words were given to look for; write one or several that stand in the prompt")
    body = r"\s+".join(map(re.escape, parts))
    return re.compile(edge(parts[0][0], r"(?<!\w)") + body + edge(parts[-1][-1], r"(?!\w)"), re.IGNORECASE)


def prompt_words(clip: comfy.sd.CLIP, prompt: str, padding: TextPadding, length: int) -> PromptWords:
    """`length`: tokens of the conditioning that `encode_text` gave for this prompt. Raises ValueError for a prompt with embeddings and
    a text encoder whose tokens do not stand in the conditioning one by one.
    """
    tokens: dict[str, list[list[Any]]] = clip.tokenize(prompt, **tokenizer_options(padding))
    if padding.max_length is not None:
        tokens["t5xxl"] = [cut_tokens(row, padding.max_length) for row in tokens["t5xxl"]]
    text = "".join(unescape_important(part) for part, _ in token_weights(escape_important(prompt), 1.0))
    places: list[set[int]] = [set() for _ in text]
    rows = [(key, list(chain.from_iterable(tokens[key]))) for key in read_in_order(tokens)]
    # Chat templates are cut off at the front; padding that is not read, at the end.
    dropped = 0 if padding.attend == "real" else sum(len(row) for _, row in rows) - length
    if dropped < 0:
        raise ValueError(f"the text encoder gives {length} embeddings for {dropped + length} tokens, so that words cannot be told apart")
    at = -dropped
    for key, row in rows:
        for i, place in aligned(text, pieces(clip, key, row)):
            if 0 <= at + place < length:
                places[i].add(at + place)
        at += len(row)
    return PromptWords(text, tuple(map(frozenset, places)))


def read_in_order(tokens: dict[str, Any]) -> list[str]:
    """The tokenizers whose tokens stand in the conditioning. CLIP-L beside T5 or a language model gives the pooled text alone, beside
    CLIP-G the other half of the same tokens; SD3 reads T5's tokens behind CLIP's.
    """
    if "g" in tokens:
        return ["g", *(["t5xxl"] if "t5xxl" in tokens else [])]
    main = [key for key in tokens if key not in ("l", "byt5")] or ["l"]
    if len(main) > 1:
        raise ValueError(f"where the words of {', '.join(tokens)} stand is not known; use a text encoder of another model")
    return main


def pieces(clip: comfy.sd.CLIP, key: str, row: Sequence[Any]) -> list[str]:
    """What the tokenizer's vocabulary shows for each token."""
    tokenizer = getattr(clip.tokenizer, key, None) or getattr(clip.tokenizer, f"clip_{key}", None)
    if not all(is_int(entry[0]) for entry in row):
        raise ValueError("the prompt has embeddings (embedding:name) or pictures among its words, and where the others stand is then not "
                         "known; leave them out here")
    if tokenizer is None or not hasattr(tokenizer, "inv_vocab"):
        raise ValueError(f"the tokenizer {type(clip.tokenizer).__name__} shows no vocabulary for {key}, so that words cannot be found")
    return [tokenizer.inv_vocab.get(entry[0], "") for entry in row]


def aligned(text: str, shown: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(character of the text, token) for all that is found again in the tokens, blanks aside.

    From the end, because templates stand before the prompt and may have the same words.
    """
    letters = [(letter, i) for i, character in enumerate(text) for letter in plain(character)]
    read = [(letter, places) for places, spelling in spelled(shown) for letter in plain(spelling)]
    wanted, given = (["".join(letter for letter, _ in side)[::-1] for side in (letters, read)])
    for a, b, size in SequenceMatcher(None, given, wanted, autojunk=False).get_matching_blocks():
        for k in range(size):
            for place in read[len(read) - 1 - a - k][1]:
                yield letters[len(letters) - 1 - b - k][1], place


def plain(text: str) -> str:
    """Without blanks, letters as tokenizers make them alike."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def spelled(shown: Sequence[str]) -> Iterator[tuple[tuple[int, ...], str]]:
    """(tokens, text) for tokens as vocabularies show them: "▁star", "star</w>", "Ġstar", "<0xE2>". Most often one token; several where a
    letter's bytes are spread over them.
    """
    run, places = b"", list[int]()
    for place, piece in enumerate([*shown, ""]):
        read = as_bytes(piece)
        run, places = run + read, [*places, place]
        try:
            text = run.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and read:
                continue
            text = run.decode(errors="ignore")
        if text:
            yield tuple(places), text
        run, places = b"", []


def as_bytes(piece: str) -> bytes:
    if byte := BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    if SPECIAL.fullmatch(piece):
        return OBJECT.encode()
    piece = piece.replace("▁", " ").removesuffix("</w>")
    if piece and all(letter in BYTE_OF for letter in piece) and not piece.isascii():
        return bytes(BYTE_OF[letter] for letter in piece)
    return piece.encode()
