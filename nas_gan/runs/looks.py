"""How runs are told apart in the charts: a colour and a dash each, and a key to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

# Okabe and Ito, in the order in which runs get them; a grey that shows on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#848b98")
# Lengths of line and gap, and the border of the key that looks like it.
DASHES = {(1, 0): "solid", (6, 3): "dashed", (2, 2): "dotted"}


class Look(NamedTuple):
    """The line of a run: its colour, and the lengths of line and gap."""

    colour: str
    dash: tuple[int, int]


# As many runs as can be told apart.
MOST = len(COLOURS) * len(DASHES)


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name, in order: all solid colours first, then dashed, then dotted ones."""
    looks = [Look(colour, dash) for dash in DASHES for colour in COLOURS]
    return {name: looks[n % MOST] for n, name in enumerate(names)}


def key_html(looks: Mapping[str, Look]) -> str:
    """The key to the lines as HTML: whole names, in as many columns as there is room for."""
    items = "".join(
        '<span style="display:flex;align-items:center;gap:.5rem;min-width:0">'
        f'<span style="flex:none;width:1.8rem;border-top:3px {DASHES[look.dash]} {look.colour}">'
        '</span><span class="run-name" style="overflow-wrap:anywhere">'
        f"{escape(name)}</span></span>"
        for name, look in looks.items()
    )
    return (
        '<div style="display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));'
        f'gap:.15rem 1.2rem;font-size:.85rem;line-height:1.35">{items}</div>'
    )


def still_chosen(
    chosen: Sequence[str], before: Sequence[str], names: Sequence[str], most: int
) -> list[str]:
    """What is chosen after the names on offer have changed: as before, and what is new.

    Args:
        chosen: names that were chosen.
        before: names that were on offer; empty at first.
        names: names that are on offer now, the newest first.
        most: how many are chosen by themselves.
    """
    new = [name for name in names if name not in before]
    kept = {name for name in chosen if name in names}
    room = max(0, most - len(kept))
    return [name for name in names if name in kept or name in new[:room]]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last folders of each name, as few as tell it from the others.

    >>> short_names(["grid/a/seed_0", "grid/b/seed_0", "first"])
    {'grid/a/seed_0': 'a/seed_0', 'grid/b/seed_0': 'b/seed_0', 'first': 'first'}
    """
    return {name: _shortest(name, [other for other in names if other != name]) for name in names}


def _shortest(name: str, others: Sequence[str]) -> str:
    parts = name.split("/")
    for n in range(1, len(parts)):
        tail = "/".join(parts[-n:])
        if not any(other == tail or other.endswith(f"/{tail}") for other in others):
            return tail
    return name
