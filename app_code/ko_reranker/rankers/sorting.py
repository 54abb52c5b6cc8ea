"""Orders found by comparing, in pure Python: a sort says which documents are to be compared, and is told what came out.

A sort is a generator. It yields a round of groups, documents by their numbers from 0, is sent an answer for each group in the
same order, and returns all documents, best first. What a round asks is independent, so that a model may compute it at once. A
tie leaves the earlier of two in front: give documents in the best order that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

# Documents that are compared with each other, in the order in which they are shown.
Group = tuple[int, ...]
Answer = TypeVar("Answer")
Asked = TypeVar("Asked")
Reply = TypeVar("Reply")
Found = TypeVar("Found")
Wanted = TypeVar("Wanted")
Result = TypeVar("Result")
# Groups to answers, then the order.
Sort = Generator[Sequence[Group], Sequence[Answer], list[int]]


def all_pairs(count: int) -> Sort[float]:
    """Compare every document with every other, in one round of ``count * (count - 1) / 2`` pairs; who wins most is first.

    Its answers are how far the first one of a pair wins: 1, 0, or 0.5 for a tie.
    """
    pairs = [(one, other) for one in range(count) for other in range(one + 1, count)]
    won = [0.0] * count
    for (one, other), share in zip(pairs, (yield pairs) if pairs else [], strict=True):
        won[one] += share
        won[other] += 1 - share
    return sorted(range(count), key=lambda document: -won[document])


def heap_sort(count: int, children: int, top: int | None = None) -> Sort[int]:
    """Find the best ``top`` documents with a heap; the others follow as the heap has them.

    Its answers are the index of the best document of a group. While the heap is built, a group is a document and its children,
    and those of a level are one round: at most ``(count - 1) / (children - 1)`` groups and one a level more. Each rank after
    the first then takes one group of children a level, as those below a document that has left move up in its place.

    Args:
        count: documents.
        children: of each document in the heap, at least two.
        top: how many ranks are wanted; None for all.
    """
    heap: list[int | None] = list(range(count))

    def below(index: int) -> list[int]:
        first = index * children + 1
        return [child for child in range(first, min(first + children, count)) if heap[child] is not None]

    for level in reversed(_levels(count, children)):
        sinking = [index for index in level if below(index)]
        while sinking:
            best = yield [_of(heap, [index, *below(index)]) for index in sinking]
            lost = [(index, below(index)[found - 1]) for index, found in zip(sinking, best, strict=True) if found]
            for index, child in lost:
                heap[index], heap[child] = heap[child], heap[index]
            sinking = [child for _, child in lost if below(child)]

    order: list[int] = []
    wanted = count if top is None else min(top, count)
    while len(order) < wanted:
        order += _of(heap, [0])
        heap[0], hole = None, 0
        while len(order) < wanted and (left := below(hole)):
            (found,) = (yield [_of(heap, left)]) if len(left) > 1 else (0,)
            heap[hole], heap[left[found]] = heap[left[found]], None
            hole = left[found]
    return order + [document for document in heap if document is not None]


def best_by_pairs(groups: Sequence[Group]) -> Generator[Sequence[Group], Sequence[float], list[int]]:
    """Find the index of the best document of each group by pairs, whose answers are those of `all_pairs`.

    A group of n takes n - 1 pairs; those of all groups that can be asked at the same time are one round.
    """
    standing = [list(range(len(group))) for group in groups]
    while any(len(indexes) > 1 for indexes in standing):
        # Whoever finds no opponent waits for the next round: the first one, of a heap the parent.
        games = [
            list(zip(indexes[len(indexes) % 2 :: 2], indexes[len(indexes) % 2 + 1 :: 2], strict=True)) for indexes in standing
        ]
        shares = iter((yield [(group[a], group[b]) for group, pairs in zip(groups, games, strict=True) for a, b in pairs]))
        standing = [
            [*indexes[: len(indexes) % 2], *(other if next(shares) < 0.5 else one for one, other in pairs)]
            for indexes, pairs in zip(standing, games, strict=True)
        ]
    return [indexes[0] for indexes in standing]


def sliding_sort(count: int, size: int, stride: int) -> Sort[Sequence[int]]:
    """Put the documents of one window after the other into order, from the end to the front, so that good ones move up.

    Its answers are a group's indexes, best first. One pass is made: if the answers are right, so are the first
    ``size - stride`` ranks, and the others are better than they were.
    """
    order = list(range(count))
    for start, end in windows(count, size, stride):
        group = tuple(order[start:end])
        if len(group) > 1:
            (indexes,) = yield [group]
            order[start:end] = [group[index] for index in indexes]
    return order


def windows(count: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Return where windows start and end, from the last to the first, which always starts at 0.

    Args:
        count: documents.
        size: of a window, where there are as many.
        stride: by how much the next window is nearer to the front, from 1 to ``size``.
    """
    start = max(0, count - size)
    found = [(start, min(count, start + size))]
    while start:
        # Clamped: stopping short of the front would leave the best ranks as they were.
        start = max(0, start - stride)
        found.append((start, start + size))
    return found


def answered(
    sort: Generator[Asked, Reply, Found], answer: Callable[[Asked], Generator[Wanted, Result, Reply]]
) -> Generator[Wanted, Result, Found]:
    """Drive a sort by rounds of something else, in which each of its rounds is answered.

    Args:
        sort: whose rounds are answered here.
        answer: from a round to what is yielded for it, in as many rounds as it takes, and its answers.
    """
    try:
        asked = next(sort)
        while True:
            asked = sort.send((yield from answer(asked)))
    except StopIteration as end:
        found: Found = end.value
        return found


def _of(heap: Sequence[int | None], indexes: Sequence[int]) -> Group:
    return tuple(document for index in indexes if (document := heap[index]) is not None)


def _levels(count: int, children: int) -> list[range]:
    """Return the indexes of each level of a heap."""
    levels: list[range] = []
    start, width = 0, 1
    while start < count:
        levels.append(range(start, min(start + width, count)))
        start, width = start + width, width * children
    return levels
