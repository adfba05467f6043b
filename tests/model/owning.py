"""A node that runs a session: its groups of writes and their answers (P6 to P11, P13, P15), and
the looks by which it learns that it is asked for the session, or lost it (P12, P14)."""

from __future__ import annotations

from collections.abc import Iterator

from .claiming import Moves
from .documents import NOBODY, Outcome, Store, Write
from .world import (
    Bounds,
    Bulk,
    Node,
    World,
    announce_accepted,
    announce_cancelling,
    announce_outcome,
    announce_welcome,
    hang_up,
)

Group = tuple[Bulk, ...]


def owning(world: World, i: int, bounds: Bounds) -> Moves:
    """What the node at place ``i`` may do next, where it runs the session."""
    node, client = world.nodes[i], world.client
    who = f"node {node.name}"
    if node.doing == "serve":
        if node.link and node.link != client.link:
            yield f"{who}: its client hung up", lambda: world.node(i, node._replace(link=0))
        s = world.store.session
        if not world.store.is_own(node.epoch, node.name):
            yield f"{who}: P14, it is not mine any more", lambda: _fenced(world, i)
        elif s.want not in (NOBODY, node.name) and not node.stop:
            yield f"{who}: P12, it is asked for it", lambda: _gives(world, i)
        if node.hello and not node.stop and "resume by a write" in bounds.without:
            yield f"{who}: welcome", lambda: announce_welcome(world, i, node)
        for words, group in _groups(world, node, bounds):
            yield f"{who}: a group: {words}", lambda group=group: _begun(world, i, group, bounds)
    elif node.doing == "send":
        yield from _sending(world, i, bounds)
    elif node.doing == "judge":
        yield f"{who}: reads what matched nothing", lambda: _judged(world, i, bounds)
    elif node.doing == "review":
        yield f"{who}: reads whether it had given up", lambda: _reviewed(world, i, bounds)
    gives = node.whole[-1:] and node.whole[-1][0].name == "release"
    hasty = "a hello waits for the release" in bounds.without
    if hasty and gives and node.hello == client.link != 0 and node.doing == "review":
        attach = ((Write("attach", (node.epoch, node.name, node.attach + 1)),),)
        serves = _serving(node)._replace(stop=False)
        yield (
            f"{who} gives up on its release, and attaches",
            lambda: _begun(world.node(i, serves), i, attach, bounds),
        )


def _serving(node: Node) -> Node:
    return node._replace(doing="serve", group=(), whole=(), at=0, short=False)


def _fenced(world: World, i: int) -> World:
    """The queue is dropped, its connection closed (4509)."""
    node = world.nodes[i]
    return hang_up(world.node(i, node.dropped()), node.link)


def _gives(world: World, i: int) -> World:
    node = world.nodes[i]
    return hang_up(world.node(i, node._replace(stop=True, link=0)), node.link)


# ---- groups


def _groups(world: World, node: Node, bounds: Bounds) -> Iterator[tuple[str, Group]]:
    """What may be committed now, as bulks in the adapter's order: rows inserted; rows settled
    and marked; sessions confirmed, attached, acknowledged; stripped; given up."""
    own = (node.epoch, node.name)
    client, without = world.client, bounds.without
    inserts = list(_inserts(world, node, bounds))
    settles = list(_settles(node, bounds))
    yield from inserts
    yield from settles
    if bounds.mixed:
        for (words, (rows, *after)), (others, changes) in (
            (a, b) for a in inserts for b in settles
        ):
            yield f"{words}, {others}", (rows, *changes, *after)
    if node.hello and node.hello == client.link and not node.stop:
        if "resume by a write" not in without:
            number = node.attach + 1
            yield "attach", ((Write("attach", (*own, number)),),)
        return
    linked = node.link and node.link == client.link
    if linked and world.left.acks and client.held > node.acked:
        upto = client.held
        done = _done(node, node.acked, upto)
        moved = (Write("acknowledge", (*own, node.acked, upto, done)),)
        forget = (Write("remove" if bounds.removes else "strip", (node.acked, upto)),)
        early = "strip after `acked` has moved" in without
        yield f"acknowledge {upto}", (forget, moved) if early else (moved, forget)
    if linked and world.left.cancels:
        for seq in range(node.settled + 1, node.accepted + 1):
            if seq not in node.cancels and client.ids[seq - 1] == node.ids[seq - 1]:
                mark = (seq, node.epoch, node.attempt(seq))
                yield f"cancel {seq}", ((Write("mark_cancel", mark),),)
    finished = node.accepted == node.settled
    if linked and bounds.bye and finished and client.told == node.accepted:
        done = _done(node, node.acked, node.accepted)
        over = Write("end", (*own, node.accepted, node.acked, done))
        yield "end", ((over,), (Write("delete", ()),))
    if not node.link and (node.stop or (finished and not node.hello)):
        numbers = (node.attach, node.accepted, node.settled)
        yield "release", ((Write("release", (*own, *numbers)),),)


def _inserts(world: World, node: Node, bounds: Bounds) -> Iterator[tuple[str, Group]]:
    client = world.client
    if not node.link or node.link != client.link or node.stop:
        return
    first = node.accepted + 1
    for last in range(first, min(first + bounds.pipeline, bounds.requests + 1)):
        ids = client.ids[first - 1 : last]
        rows = tuple(
            Write("insert", (first + n, id, node.epoch, node.sent)) for n, id in enumerate(ids)
        )
        confirm = Write("confirm", (node.epoch, node.name, first, last))
        yield f"insert {ids}", (rows, (confirm,))


def _settles(node: Node, bounds: Bounds) -> Iterator[tuple[str, Group]]:
    """The lowest unsettled requests: methods that may run again need not wait for the outcomes
    ahead of theirs to be durable."""
    first = node.settled + 1
    for last in range(first, min(first + bounds.pipeline, node.accepted + 1)):
        changes = []
        for seq in range(first, last + 1):
            ending = "cancelled" if seq in node.cancels else "done"
            outcome = Outcome(ending, node.epoch, node.name)
            changes.append(Write("settle", (seq, node.epoch, node.attempt(seq), outcome)))
        yield f"settle {first} to {last}", (tuple(changes),)


def _done(node: Node, after: int, upto: int) -> int:
    return [o.ending for o in node.outcomes[after:upto]].count("done")


def _begun(world: World, i: int, group: Group, bounds: Bounds) -> World:
    """It is on its way. What is announced before it is durable is announced here."""
    node = world.nodes[i]
    if "an outcome is durable before it is sent" in bounds.without:
        for write in (w for bulk in group for w in bulk if w.name == "settle"):
            world = announce_outcome(world, node.link, write.fields[0], write.fields[3])
    if "a cancel is durable before it is answered" in bounds.without:
        for write in (w for bulk in group for w in bulk if w.name == "mark_cancel"):
            world = announce_cancelling(world, write.fields[0])
    for name, what in (("acknowledge", "acks"), ("mark_cancel", "cancels")):
        if any(w.name == name for bulk in group for w in bulk):
            world = world.spend(what)
    return world.node(i, node._replace(doing="send", group=group, whole=group))


# ---- sending


def _sending(world: World, i: int, bounds: Bounds) -> Moves:
    """The next write of the bulk; the bulk's answer comes with its last one."""
    node = world.nodes[i]
    bulk, write = node.group[0], node.group[0][node.at]
    inserts = write.name in ("insert", "replace")
    what = f"node {node.name}: {write.name}{_plain(write)}"

    def answered() -> World:
        after, matched = world.applied(write, bounds.without)
        short = node.short or not matched
        knows = node.tried(write.fields[0], write.fields[3]) if inserts else node
        if node.at + 1 < len(bulk):
            return after.node(i, knows._replace(at=node.at + 1, short=short))
        if short and "what matches nothing is looked at" not in bounds.without:
            return after.node(i, knows._replace(doing="judge", at=0, short=False))
        return _answered(after, i, knows._replace(at=0, short=False), bounds)

    def lost() -> World:
        after, _ = world.applied(write, bounds.without)
        return after.spend("late").node(i, _again(node, bounds))

    def late() -> World:
        after = world.spend("late").node(i, _again(node, bounds))
        return after._replace(late=(*world.late, bulk[node.at :]))

    yield what, answered
    if world.left.late:
        if node.at + 1 == len(bulk):
            yield f"{what}, and its answer is lost", lost
        yield f"{what} is sent and comes late", late


def _plain(write: Write) -> str:
    return "(" + ", ".join(str(tuple(f) if type(f) is Outcome else f) for f in write.fields) + ")"


def _again(node: Node, bounds: Bounds) -> Node:
    """No reply: the whole group is sent again, but for the tries unchanged."""
    gives_up = node.whole[-1][0].name in ("release", "delete")
    doing = "review" if gives_up else "send"
    sent = node.sent
    if any(w.name == "insert" for bulk in node.whole for w in bulk):
        sent = _next_try(node, bounds)
    whole = tuple(tuple(_sent_as(w, sent) for w in bulk) for bulk in node.whole)
    return node._replace(doing=doing, group=whole, whole=whole, sent=sent, at=0, short=False)


def _next_try(node: Node, bounds: Bounds) -> int:
    return node.sent + ("each sending has its own try" not in bounds.without)


def _sent_as(write: Write, attempt: int) -> Write:
    """P6: an insert bears the try of its sending."""
    if write.name not in ("insert", "replace"):
        return write
    return Write(write.name, (*write.fields[:3], attempt))


def _reviewed(world: World, i: int, bounds: Bounds) -> World:
    """The adapter's ``_look``: a group that gave the session up can be told only by that."""
    node = world.nodes[i]
    if not any(_gave_up(world.store, w) for bulk in node.whole for w in bulk):
        return world.node(i, node._replace(doing="send"))
    if node.whole[-1][0].name == "delete":
        world, _ = world.applied(node.whole[-1][0], bounds.without)
    return _completed(world, i, node, bounds)


def _gave_up(store: Store, write: Write) -> bool:
    s, given = store.session, store.session.given
    if write.name == "release":
        epoch, _, *numbers = write.fields
        return (s.epoch, s.state, s.node, given) == (
            epoch, "live", NOBODY, ("release", epoch, *numbers),
        )  # fmt: skip
    if write.name == "end":
        epoch, _, accepted, *_ = write.fields
        return (s.epoch, s.state, given) == (epoch, "ended", ("end", epoch, accepted))
    return False


def _judged(world: World, i: int, bounds: Bounds) -> World:
    """What matched nothing may be in effect, or can be made so; else the session is fenced."""
    node = world.nodes[i]
    again: list[Write] = []
    for write in node.group[0]:
        verdict = _verdict(world.store, node, write, bounds)
        if verdict is None:
            return _fenced(world, i)
        again += verdict
        if write.name in ("insert", "replace") and not verdict:
            row = world.store.rows[write.fields[0] - 1]
            assert row is not None
            node = node.tried(write.fields[0], row.attempt)
    if any(w.name in ("insert", "replace") for w in again):
        node = node._replace(sent=_next_try(node, bounds))
    if again:
        bulk = tuple(_sent_as(w, node.sent) for w in again)
        return world.node(i, node._replace(doing="send", group=(bulk, *node.group[1:])))
    return _answered(world, i, node, bounds)


def _verdict(store: Store, node: Node, write: Write, bounds: Bounds) -> list[Write] | None:
    """None: fenced; else what must still be written for it."""
    s, own = store.session, store.is_own(node.epoch, node.name)
    if write.name in ("insert", "replace"):
        seq, id, epoch, _ = write.fields
        row = store.rows[seq - 1]
        if row is None:
            return [Write("insert", write.fields)]
        if row.id == id and (row.stripped or row.epoch == epoch):
            return []
        if "no number is adopted" in bounds.without:
            return []
        return [Write("replace", write.fields)] if not row.stripped and row.epoch < epoch else None
    if write.name in ("settle", "mark_cancel"):
        seq = write.fields[0]
        row = store.rows[seq - 1]
        if not own or (seq > s.acked and row is None):
            return None
        if seq <= s.acked:
            return []
        assert row is not None
        if write.name == "mark_cancel":
            return [] if row.cancel or row.outcome else None
        return [] if row.outcome == write.fields[3] else None
    if write.name in ("release", "end"):
        return [] if _gave_up(store, write) else None
    if write.name in ("strip", "remove", "delete"):
        return []
    effect = {
        "confirm": s.accepted >= write.fields[-1],
        "attach": s.attach >= write.fields[-1],
        "acknowledge": s.acked >= write.fields[-2] if write.name == "acknowledge" else False,
    }
    return [] if own and effect[write.name] else None


# ---- the answers


def _answered(world: World, i: int, node: Node, bounds: Bounds) -> World:
    """The first bulk of the group is in effect."""
    if "confirm before announcing" in bounds.without:
        for write in node.group[0]:
            if write.name in ("insert", "replace"):
                world = announce_accepted(world, node.link, *write.fields[:2])
    if len(node.group) > 1:
        return world.node(i, node._replace(doing="send", group=node.group[1:], at=0))
    return _completed(world, i, node, bounds)


def _completed(world: World, i: int, node: Node, bounds: Bounds) -> World:
    """The group is durable: it counts, and is announced in its order."""
    link, whole = node.link, [w for bulk in node.whole for w in bulk]
    node = _serving(node)
    for write in whole:
        fields = write.fields
        if write.name == "insert":
            node = node._replace(ids=(*node.ids, fields[1]))
            world = announce_accepted(world, link, fields[0], fields[1])
        elif write.name == "settle":
            node = node._replace(outcomes=(*node.outcomes, fields[3]))
            world = announce_outcome(world, link, fields[0], fields[3])
        elif write.name == "mark_cancel":
            node = node._replace(cancels=node.cancels | {fields[0]})
            world = announce_cancelling(world, fields[0])
        elif write.name == "acknowledge":
            node = node._replace(acked=fields[3])
        elif write.name == "attach":
            return announce_welcome(world, i, node._replace(attach=fields[2]))
        elif write.name == "release":
            return world.node(i, node.dropped())
        elif write.name == "end":
            client = hang_up(world, link).client._replace(over=True)
            return world._replace(client=client).node(i, Node(node.name))
    return world.node(i, node)
