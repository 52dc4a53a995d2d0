"""Words that a caption names. No language model: rules that can be foretold."""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Scripts without spaces are matched sign by sign; an underscore separates words, as in tags.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
PIECE = re.compile(r"[,.;:!?()\[\]{}<>|\"\n\u2026\u3001\u3002\uff0c\uff1b\uff1a]+")
TAG = 3
IRREGULAR = (("person", "people"), ("child", "children"), ("foot", "feet"), ("tooth", "teeth"), ("mouse", "mice"), ("goose", "geese"))
# They end a phrase: articles, pronouns, prepositions, conjunctions, auxiliary verbs, what people do in captions, and the picture itself.
STOP_WORDS = """
a an the this that these those some any each every another other all both no not his her hers their theirs its my your our he she it they
i we you him them us who whom whose which what where when while as if than then there here
of in on at by with without to from into onto over under above below behind between beside near next against around through across
along during before after for about like off out up down inside outside within toward towards upon
and or but nor so yet very too just only also more most much many several few lot lots
is are was were be been being am has have had do does did can could will would may might must should
s wearing holding standing sitting looking walking lying kneeling leaning smiling showing facing posing having doing seen shown
photo photograph picture image portrait view background foreground front
"""
STOP = frozenset(STOP_WORDS.split())


def words_of(text: str) -> list[str]:
    """The words of a text, folded to lower case and to one form of each letter."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def same_word(one: str, other: str) -> bool:
    """Whether two folded words are the same but for singular and plural."""
    return one == other or one in _plurals(other) or other in _plurals(one)


def _plurals(word: str) -> set[str]:
    forms = {plural for singular, plural in IRREGULAR if singular == word}
    if len(word) < 3:
        return forms
    forms |= {word + "s", word + "es"}
    for ending, plural in (("y", "ies"), ("f", "ves"), ("fe", "ves"), ("man", "men")):
        if word.endswith(ending):
            forms.add(word.removesuffix(ending) + plural)
    return forms


def named(lines: Iterable[str], caption: str) -> list[str]:
    """Those of `lines` whose words stand in the caption one after the other, in the order of `lines`.

    Whole words, singular or plural. The longest lines look first, and words that one took are not there for a shorter one: of
    "hair" and "red hair", "a woman with red hair" names "red hair" alone.
    """
    lines = list(lines)
    left: list[str] = words_of(caption)
    found = set()
    for line in sorted(lines, key=lambda one: -len(words_of(one))):
        wanted = words_of(line)
        if not wanted:
            continue
        places = [start for start in range(len(left) - len(wanted) + 1)
                  if all(map(same_word, left[start:start + len(wanted)], wanted))]
        if places:
            found.add(line)
        for start in places:
            left[start:start + len(wanted)] = [""] * len(wanted)
    return [line for line in lines if line in found]


def phrases_of(caption: str) -> list[str]:
    """What a caption may name, each once, in its order.

    Punctuation cuts the caption into pieces. A piece of up to three words, without the stop words at its ends, is one phrase: a tag.
    In a longer one every run of words between stop words is a phrase (RAKE's candidates): "a woman with red hair standing in a
    forest" gives "woman", "red hair", "forest".
    """
    found: dict[tuple[str, ...], str] = {}
    for piece in PIECE.split(unicodedata.normalize("NFKC", caption).replace("_", " ")):
        for run in _runs(piece.lower()):
            words = words_of(run)
            if any(any(sign.isalpha() for sign in word) for word in words):
                found.setdefault(tuple(words), run)
    return list(found.values())


def _runs(piece: str) -> list[str]:
    words = list(WORD.finditer(piece))
    while words and words[0].group().casefold() in STOP:
        del words[0]
    while words and words[-1].group().casefold() in STOP:
        del words[-1]
    groups: list[list[re.Match[str]]] = [[]]
    for word in words:
        if len(words) > TAG and word.group().casefold() in STOP:
            groups.append([])
        else:
            groups[-1].append(word)
    return [piece[group[0].start():group[-1].end()] for group in groups if group]
