"""A node on its way to a session: P2 to P5, and P12 where another node owns it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .documents import NOBODY, Outcome, Row, Write
from .world import Bounds, Node, World, announce_welcome, hang_up

Moves = Iterator[tuple[str, Callable[[], World]]]


def claiming(world: World, i: int, bounds: Bounds) -> Moves:
    """What the node at place ``i`` may do next, where it runs the session not."""
    node = world.nodes[i]
    store, s = world.store, world.store.session
    who = f"node {node.name}"
    if node.doing == "idle":
        if store.dead[node.name]:
            if node.name < 2:
                yield f"{who} begins again as {node.name + 2}", lambda: _rejoined(world, i)
        elif node.hello and node.hello != world.client.link:
            yield f"{who}: its caller hung up", lambda: world.node(i, node._replace(hello=0))
        elif node.hello or (s.state == "live" and _may_adopt(world, node)):
            yield f"{who} reads the session", lambda: _looked(world, i, bounds)
    elif node.doing == "take":
        epoch, owner = node.seen
        write = Write("take", (epoch, owner, node.name))
        raised = epoch if "claim raises the epoch" in bounds.without else epoch + 1
        yield from _sent(world, i, bounds, write, node._replace(doing="read", epoch=raised))
    elif node.doing == "ask":
        write = Write("want", (*node.seen, node.name))
        yield from _sent(world, i, bounds, write, node._replace(doing="idle", seen=Node(0).seen))
    elif node.doing == "read":
        yield f"{who}: P3 read", lambda: _read(world, i)
    elif node.doing == "load":
        yield f"{who}: P5 load", lambda: _loaded(world, i, bounds)
    elif node.doing == "stamp":
        yield from _stamping(world, i, bounds)
    elif node.doing == "check":
        yield f"{who}: P5, the last read", lambda: _checked(world, i, bounds)


def _may_adopt(world: World, node: Node) -> bool:
    s, dead = world.store.session, world.store.dead
    if s.node == NOBODY:
        return s.open and world.left.sweeps > 0
    return s.node == node.name or dead[s.node]


def _rejoined(world: World, i: int) -> World:
    node = world.nodes[i]
    return world.node(i, Node(node.name + 2, hello=node.hello))


def _looked(world: World, i: int, bounds: Bounds) -> World:
    node, store = world.nodes[i], world.store
    s = store.session
    if s.state != "live":
        world = hang_up(world, node.hello)
        world = world._replace(client=world.client._replace(over=True))
        return world.node(i, Node(node.name))
    seen = (s.epoch, s.node)
    if s.node in (NOBODY, node.name) or store.dead[s.node]:
        if s.node == NOBODY and not node.hello:
            world = world.spend("sweeps")
        return world.node(i, node._replace(doing="take", seen=seen))
    if bounds.wants and s.want != node.name:
        return world.node(i, node._replace(doing="ask", seen=seen))
    return world


def _sent(world: World, i: int, bounds: Bounds, write: Write, then: Node) -> Moves:
    """A write of a claim. Where its answer is lost, all begins with another look."""
    node = world.nodes[i]
    what = f"node {node.name}: {write.name}{write.fields}"

    def answered() -> World:
        after, matched = world.applied(write, bounds.without)
        return after.node(i, then if matched or write.name == "stamp" else node.dropped())

    def lost() -> World:
        after, _ = world.applied(write, bounds.without)
        return after.spend("late").node(i, node.dropped())

    def late() -> World:
        after = world.spend("late").node(i, node.dropped())
        return after._replace(late=(*world.late, (write,)))

    yield what, answered
    if world.left.late:
        yield f"{what}, and its answer is lost", lost
        yield f"{what} is sent and comes late", late


def _read(world: World, i: int) -> World:
    node, store = world.nodes[i], world.store
    s = store.session
    if not store.is_own(node.epoch, node.name):
        return world.node(i, node.dropped())
    knows = node._replace(doing="load", attach=s.attach, acked=s.acked, loaded=s.accepted)
    return world.node(i, knows)


def _loaded(world: World, i: int, bounds: Bounds) -> World:
    """P4's find, and P5's where none of the rows is of an older epoch any more."""
    node = world.nodes[i]
    rows = world.store.rows[: node.loaded]
    if not all(rows[node.acked :]):
        # The session ended meanwhile, and its rows are gone.
        return world.node(i, node.dropped())
    older = [
        seq
        for seq, row in enumerate(rows, 1)
        if row and seq > node.acked and row.outcome is None and row.epoch != node.epoch
    ]
    if "load after the stamp" in bounds.without and not node.ids:
        node = _knowing(world, node, rows)
    if not older or "stamp" in bounds.without:
        ready = _knowing(world, node, rows) if not node.ids else node
        return world.node(i, ready._replace(doing="check"))
    if "stamp from the highest down" not in bounds.without:
        older.reverse()
    stamps = tuple(Write("stamp", (seq, node.epoch)) for seq in older)
    return world.node(i, node._replace(doing="stamp", group=(stamps,)))


def _knowing(world: World, node: Node, rows: tuple[Row | None, ...]) -> Node:
    """The node with what it read of the rows; of the acknowledged ones it needs nothing."""
    outcomes: list[Outcome] = []
    ids: list[int] = []
    for seq, row in enumerate(rows, 1):
        if seq <= node.acked:
            id, known = world.history[seq - 1]
            assert known is not None
            ids.append(id)
            outcomes.append(known)
            continue
        assert row is not None
        ids.append(row.id)
        if row.outcome and len(outcomes) == seq - 1:
            outcomes.append(row.outcome)
    return node._replace(
        ids=tuple(ids),
        outcomes=tuple(outcomes),
        cancels=frozenset(seq for seq, row in enumerate(rows, 1) if row and row.cancel),
    )


def _stamping(world: World, i: int, bounds: Bounds) -> Moves:
    """One after the other, then another look at the rows."""
    node = world.nodes[i]
    (stamps,) = node.group
    left = stamps[1:]
    then = node._replace(group=(left,)) if left else node._replace(group=(), doing="load")
    yield from _sent(world, i, bounds, stamps[0], then)


def _checked(world: World, i: int, bounds: Bounds) -> World:
    node = world.nodes[i]
    own = world.store.is_own(node.epoch, node.name)
    if not own and "a last read before it serves" not in bounds.without:
        return world.node(i, node.dropped())
    serves = node._replace(doing="serve", seen=Node(0).seen)
    world = world.node(i, serves)
    return announce_welcome(world, i, serves) if node.hello else world
