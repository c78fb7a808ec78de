"""Writes of single steps into a preallocated tensor, as one stack of what was written."""

from __future__ import annotations

from typing import Any

from torch import fx

from .rewrite import END, Rewrite, argument, aten


def _write(node: fx.Node) -> tuple[fx.Node, fx.Node, int, int] | None:
    """(tensor before, value, dimension, index) where `node` writes one step of a tensor."""
    args: tuple[Any, ...] = tuple(node.args)
    if node.target not in (aten.select_scatter.default, aten.slice_scatter.default):
        return None
    before, value, dim, start = args[0], args[1], argument(node, 2, 0), argument(node, 3, 0) or 0
    size = before.meta["val"].shape[dim]
    if not isinstance(size, int) or not isinstance(start, int):
        return None
    dim %= before.meta["val"].dim()
    if node.target is aten.slice_scatter.default:
        end, step = argument(node, 4, END), argument(node, 5, 1)
        if not isinstance(end, int) or step != 1:
            return None
        start, end, _ = slice(start, end).indices(size)
        if end - start != 1:
            return None
    return before, value, dim, start % size


def join_writes(edit: Rewrite) -> Any:
    """The last of the writes into a tensor as a stack of all that was written, and what was there before elsewhere."""
    node = edit.node
    last = _write(node)
    if last is None or any((w := _write(user)) is not None and w[0] is node and w[2] == last[2] for user in node.users):
        return None
    dim, writes = last[2], []
    at: fx.Node = node
    while (write := _write(at)) is not None and write[2] == dim:
        writes.append((at, write))
        at = write[0]
    first = at
    written: dict[int, fx.Node] = {}
    for made, (before, value, _, index) in reversed(writes):
        for user in list(before.users):
            # What a later step reads of the tensor is what was written there, or what was there from the start.
            if user.target is aten.select.int and user.args[1] == dim and before is not first:
                known = written.get(user.args[2])  # type: ignore[arg-type]
                with edit.graph.inserting_before(user):
                    rewrite = Rewrite(edit.graph, user)
                    rewrite.node.replace_all_uses_with(
                        known or rewrite.add(aten.select.int, first, dim, user.args[2], val=user.meta["val"])
                    )
        if made.target is aten.slice_scatter.default:
            with edit.graph.inserting_before(made):
                value = Rewrite(edit.graph, made).add(aten.select.int, value, dim, 0)
        written[index] = value
    if any(
        user not in {made for made, _ in writes}
        for made, (before, *_) in writes
        for user in before.users
        if before is not first and user.users
    ):
        return None  # read as a whole in between
    size = first.meta["val"].shape[dim]
    parts = [written.get(k) or edit.add(aten.select.int, first, dim, k) for k in range(size)]
    for k, part in enumerate(parts):
        if part.meta["val"].dtype != first.meta["val"].dtype:
            return None
        if list(map(str, part.meta["val"].shape)) != list(map(str, first.meta["val"].select(dim, 0).shape)):
            parts[k] = edit.add(aten.expand_as.default, part, edit.add(aten.select.int, first, dim, 0))
    return edit.add(aten.stack.default, parts, dim, val=node.meta["val"])
