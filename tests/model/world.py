"""Everything there is: the store, two nodes, a client, writes on their way, and what was so far.

The invariants stand here: :meth:`World.stored` holds every change of the store to them, and the
functions below it everything that is announced.
"""

from __future__ import annotations

from typing import NamedTuple

from .checker import Broken
from .documents import NOBODY, STAMPED, Outcome, Rules, Store, Write

Bulk = tuple[Write, ...]
DOWN = -2
FORGOTTEN = 0
# Requests that a client has in the place of others that it forgot.
_OTHERS = 10


class Bounds(NamedTuple):
    """How much may happen. ``pipeline`` is how many requests, or outcomes, a group takes at a
    time, ``mixed`` whether it takes both; ``sweeps`` how
    often a session is adopted that was given up with work left, ``leaves`` how often the client
    goes away without a hello elsewhere; ``forgets``: a client may come back as one that has
    other requests for the numbers that were not accepted; ``removes``: what is acknowledged is
    not kept, not even stripped."""

    requests: int = 2
    hellos: int = 2
    lapses: int = 0
    crashes: int = 0
    late: int = 0
    acks: int = 0
    cancels: int = 0
    sweeps: int = 1
    leaves: int = 0
    wants: bool = True
    bye: bool = False
    expiry: bool = False
    forgets: bool = False
    removes: bool = False
    pipeline: int = 1
    mixed: bool = False
    without: Rules = frozenset()


class Node(NamedTuple):
    """One process. ``name`` is its incarnation's.

    ``doing``: idle; look, take, read, load, stamp, check (a claim); ask (for a session that
    another node owns); serve; send, judge, review (a group on its way).
    ``seen`` is the epoch and the owner that its claim read. ``ids`` and ``outcomes`` are by seq,
    as far as it knows them durable; ``tries`` are those of the rows that it inserted, from
    ``loaded`` on, and ``sent`` is the try of what it inserts next. ``group`` is the bulks still to
    be answered, the first one from ``at`` on; ``whole`` the group as it was sent, which is sent
    again where an answer is lost. ``short``: a write of this bulk matched nothing. ``link`` and
    ``hello`` are numbers of connections, 0 for none.
    """

    name: int
    doing: str = "idle"
    seen: tuple[int, int] = (0, NOBODY)
    epoch: int = 0
    attach: int = 0
    acked: int = 0
    loaded: int = 0
    sent: int = 1
    tries: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    cancels: frozenset[int] = frozenset()
    group: tuple[Bulk, ...] = ()
    whole: tuple[Bulk, ...] = ()
    at: int = 0
    short: bool = False
    link: int = 0
    hello: int = 0
    stop: bool = False

    @property
    def accepted(self) -> int:
        return len(self.ids)

    @property
    def settled(self) -> int:
        return len(self.outcomes)

    def attempt(self, seq: int) -> int:
        """``Own.attempt`` of the adapter."""
        return STAMPED if seq <= self.loaded else self.tries[seq - self.loaded - 1]

    def tried(self, seq: int, attempt: int) -> Node:
        """``Own.tries`` of the adapter, once the row is there."""
        tries = (*self.tries, *(STAMPED for _ in range(seq - self.loaded - len(self.tries))))
        at = seq - self.loaded - 1
        return self._replace(tries=(*tries[:at], attempt, *tries[at + 1 :]))

    def dropped(self) -> Node:
        """It knows nothing of the session any more; who asks for it still does."""
        return Node(self.name, hello=self.hello)


class Client(NamedTuple):
    """``link`` is its connection's number, 0 for none, and ``made`` that of its last one;
    ``held`` is the last outcome it has, ``told`` the highest seq that it was told is accepted.
    ``ids`` are its requests by seq."""

    ids: tuple[int, ...]
    link: int = 0
    made: int = 0
    held: int = 0
    told: int = 0
    over: bool = False


class Left(NamedTuple):
    """What may still happen."""

    hellos: int
    lapses: int
    crashes: int
    late: int
    acks: int
    cancels: int
    sweeps: int
    leaves: int


class World(NamedTuple):
    """``history``: of every request that was ever accepted, its id and its first outcome.
    ``promised``: the requests of which `cancelling` was answered."""

    store: Store
    nodes: tuple[Node, ...]
    client: Client
    left: Left
    late: tuple[Bulk, ...] = ()
    history: tuple[tuple[int, Outcome | None], ...] = ()
    promised: frozenset[int] = frozenset()
    expiring: int = 0

    def node(self, i: int, node: Node) -> World:
        return self._replace(nodes=(*self.nodes[:i], node, *self.nodes[i + 1 :]))

    def spend(self, what: str) -> World:
        return self._replace(left=self.left._replace(**{what: getattr(self.left, what) - 1}))

    def applied(self, write: Write, without: Rules) -> tuple[World, bool]:
        """The world with this write in effect, and whether it matched."""
        after = write.apply(self.store, without)
        if after is None:
            return self, False
        world = self.stored(after)
        if write.name == "release":
            _, _, _, accepted, settled = write.fields
            _receipt(world, accepted, settled)
        return world, True

    def stored(self, store: Store) -> World:
        """Raises :class:`Broken` where this store breaks a promise, given what was before."""
        s, history = store.session, list(self.history)
        if s.accepted < len(history):
            raise Broken("G2: `accepted` went back")
        # Rows of a session that is not live are swept, whoever still inserts some.
        for seq in range(1, s.accepted + 1 if s.state == "live" else 1):
            row = store.rows[seq - 1]
            if row is None or row.stripped:
                outcome = history[seq - 1][1] if seq <= len(history) else None
                if outcome is None:
                    raise Broken(f"G2: request {seq} is accepted, and has neither row nor outcome")
                if s.acked < seq:
                    raise Broken(f"G3: the outcome of {seq} is gone before it was acknowledged")
                if row is None:
                    continue
            if seq > len(history):
                history.append((row.id, None))
            id, outcome = history[seq - 1]
            if seq <= s.acked and not row.stripped and row.outcome is None:
                continue  # it came late, and is nobody's
            if row.id != id:
                raise Broken(f"G5: number {seq} was request {id}, and is {row.id} now")
            if row.stripped or row.outcome == outcome:
                continue
            if outcome is not None:
                raise Broken(f"G3: request {seq} has a second outcome")
            if row.outcome is not None:
                if any(o is None for _, o in history[: seq - 1]):
                    raise Broken(f"G1: request {seq} has an outcome before one ahead of it")
                if seq in self.promised and row.outcome.ending != "cancelled":
                    raise Broken(f"P9: the cancel of {seq} was answered, and is lost")
                history[seq - 1] = (id, row.outcome)
        known = [o for _, o in history] if s.state != "live" else []
        for seq, row in enumerate(store.rows[: len(known)], 1):
            if row is not None and row.outcome not in (None, known[seq - 1]):
                raise Broken(f"G3: request {seq} has a second outcome")
        ids = [id for id, _ in history]
        if len(set(ids)) < len(ids):
            raise Broken(f"G5: a request was accepted twice: {ids}")
        if s.state != "live" and any(o is None for _, o in history):
            raise Broken(f"G3: the session is {s.state}, and an accepted request has no outcome")
        endings = [o.ending for _, o in history[: s.acked] if o is not None]
        if (s.done, s.cancelled) != (endings.count("done"), endings.count("cancelled")):
            raise Broken(f"G6: the tally says {s.done} done, {s.cancelled} cancelled of {endings}")
        return self._replace(store=store, history=tuple(history))


def _receipt(world: World, accepted: int, settled: int) -> None:
    there = len([o for _, o in world.history if o is not None])
    if (accepted, settled) != (len(world.history), there):
        raise Broken(
            f"G6: the receipt says {accepted} accepted and {settled} settled; the store "
            f"{len(world.history)} and {there}"
        )


# ---- what is announced


def announce_accepted(world: World, link: int, seq: int, id: int) -> World:
    """G2, G5: whoever sends it, and whether or not anybody listens."""
    if seq > len(world.history) or world.history[seq - 1][0] != id:
        raise Broken(f"G2: request {id} is announced as number {seq}, and is not accepted so")
    client = world.client
    if not link or link != client.link:
        return world
    return world._replace(client=client._replace(told=max(client.told, seq)))


def announce_outcome(world: World, link: int, seq: int, outcome: Outcome) -> World:
    """G1, G3."""
    if seq > len(world.history) or world.history[seq - 1][1] != outcome:
        raise Broken(f"G3: an outcome of {seq} is announced that is not the recorded one")
    client = world.client
    if not link or link != client.link or seq <= client.held:
        return world
    if seq > client.held + 1:
        raise Broken(f"G1: outcome {seq} comes to one who holds {client.held}")
    return world._replace(client=client._replace(held=seq, told=max(client.told, seq)))


def announce_welcome(world: World, i: int, node: Node) -> World:
    """The session goes on at this node for who said hello: what it tells must not fall short of
    what the client was told before (`history_lost`)."""
    client, link = world.client, node.hello
    world = world.node(i, node._replace(link=link, hello=0))
    if link != client.link:
        return world
    if client.told > node.accepted or client.held > node.settled:
        raise Broken(
            f"G3: welcome says {node.accepted} accepted and {node.settled} settled, the client "
            f"was told {client.told} and holds {client.held}"
        )
    ids = list(client.ids)
    for seq in range(client.told + 1, len(ids) + 1):
        there = node.ids[seq - 1] if seq <= node.accepted else seq + _OTHERS * client.made
        if ids[seq - 1] == FORGOTTEN:
            ids[seq - 1] = there
        elif seq <= node.accepted and ids[seq - 1] != there:
            raise Broken(f"G5: number {seq} was given to {there}, which it never sent")
    world = world._replace(client=client._replace(ids=tuple(ids)))
    for seq in range(1, node.accepted + 1):
        world = announce_accepted(world, link, seq, node.ids[seq - 1])
    for seq, outcome in enumerate(node.outcomes, 1):
        if seq > node.acked:
            world = announce_outcome(world, link, seq, outcome)
    return world


def announce_cancelling(world: World, seq: int) -> World:
    """P9: a cancel that was answered is not lost."""
    outcome = world.history[seq - 1][1]
    if outcome is not None:
        return world
    return world._replace(promised=world.promised | {seq})


def hang_up(world: World, link: int) -> World:
    """The node closes this connection."""
    client = world.client
    if not link or link != client.link:
        return world
    return world._replace(client=client._replace(link=0))
