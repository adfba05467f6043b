"""What may happen next: a step of a node, of the client, of the network, a crash, a lapse."""

from __future__ import annotations

from .claiming import Moves, claiming
from .documents import Row, Session, Store, Write
from .owning import owning
from .world import DOWN, FORGOTTEN, Bounds, Client, Left, Node, World


def start(bounds: Bounds) -> World:
    """Node 0 owns a session that accepted nothing yet (P1), and its client is connected."""
    rows: tuple[Row | None, ...] = (None,) * bounds.requests
    owner = Node(0, "serve", epoch=1, attach=1, link=1)
    client = Client(tuple(range(1, bounds.requests + 1)), link=1, made=1)
    left = Left(
        bounds.hellos, bounds.lapses, bounds.crashes, bounds.late, bounds.acks, bounds.cancels,
        bounds.sweeps, bounds.leaves,
    )  # fmt: skip
    return World(Store(Session(), rows), (owner, Node(1)), client, left)


def moves(world: World, bounds: Bounds) -> Moves:
    """Every move, with what it makes of the world."""
    client = world.client
    if client.link and world.left.leaves:
        gone = world._replace(client=client._replace(link=0)).spend("leaves")
        yield "the client goes away", lambda: gone
    for i, node in enumerate(world.nodes):
        if node.name == DOWN:
            continue
        yield from claiming(world, i, bounds)
        yield from owning(world, i, bounds)
        if world.left.crashes:
            yield f"node {node.name} crashes", lambda i=i: _crashed(world, i)
            if world.left.late and node.doing == "send":
                yield (
                    f"node {node.name} crashes, and its last bulk comes late",
                    lambda i=i: _crashed(world, i, late=True),
                )
        if world.left.lapses and not world.store.dead[node.name]:
            yield (
                f"node {node.name} is declared dead, falsely",
                lambda n=node.name: _lapsed(world.spend("lapses"), n),
            )
        if world.left.hellos and not client.over:
            yield f"the client says hello to node {node.name}", lambda i=i: _hello(world, i, False)
            if bounds.forgets:
                yield (
                    f"the client says hello to node {node.name}, with other requests",
                    lambda i=i: _hello(world, i, True),
                )
    for n, bulk in enumerate(world.late):
        yield (
            f"late: {bulk[0].name}{bulk[0].fields}",
            lambda n=n: _came_late(world, n, bounds),
        )
    if bounds.expiry:
        yield from _expiry(world, bounds)


def _crashed(world: World, i: int, late: bool = False) -> World:
    node, dead = world.nodes[i], world.store.dead
    world = world.spend("crashes")
    if late:
        world = world.spend("late")._replace(late=(*world.late, node.group[0][node.at :]))
    # That it is declared dead takes a lease; nobody does anything to its session until then.
    dead = (*dead[: node.name], True, *dead[node.name + 1 :])
    world = world._replace(store=world.store._replace(dead=dead))
    return world.node(i, Node(DOWN))


def _lapsed(world: World, name: int) -> World:
    dead = world.store.dead
    dead = (*dead[:name], True, *dead[name + 1 :])
    return world._replace(store=world.store._replace(dead=dead))


def _hello(world: World, i: int, forgets: bool) -> World:
    """A new connection; what the old one still brings is ignored."""
    client, node = world.client, world.nodes[i]
    number = client.made + 1
    ids = client.ids
    if forgets:
        # What it sent beyond what it was told, it knows no more; the welcome says how far it got.
        ids = (*ids[: client.told], *(FORGOTTEN for _ in ids[client.told :]))
    client = client._replace(link=number, made=number, ids=ids)
    world = world._replace(client=client).spend("hellos")
    return world.node(i, node._replace(hello=number))


def _came_late(world: World, n: int, bounds: Bounds) -> World:
    """A bulk whose sender has long stopped waiting goes on."""
    bulk = world.late[n]
    left = (bulk[1:],) if len(bulk) > 1 else ()
    world, _ = world.applied(bulk[0], bounds.without)
    return world._replace(late=(*world.late[:n], *left, *world.late[n + 1 :]))


def _expiry(world: World, bounds: Bounds) -> Moves:
    """P16: a node reads which sessions are free and settled, and then says that they are gone."""
    s, rows = world.store.session, world.store.rows
    if s.state == "gone" and any(rows):
        yield "P16: delete", lambda: world.applied(Write("delete", ()), bounds.without)[0]
    if s.state != "live":
        return
    free = s.node < 0 and not s.open
    last = rows[s.accepted - 1] if s.accepted > s.acked else None
    settled = s.accepted == s.acked or (last is not None and last.outcome is not None)
    if not world.expiring and free and settled:
        yield "P16: it reads that the session is free", lambda: world._replace(expiring=s.epoch)
    elif world.expiring:
        write = Write("expire", (world.expiring,))
        yield "P16: expire", lambda: world.applied(write, bounds.without)[0]._replace(expiring=0)
