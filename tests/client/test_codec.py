"""Frames, read by either side."""

from __future__ import annotations

import json

import pytest

from inorder import codec
from inorder.messages import Accepted, Ack, Draining

ACCEPTED = {"type": "accepted", "id": "a", "seq": 1, "ahead": 0}
DRAINING = {"type": "draining", "deadline": 3.0}


@pytest.mark.parametrize("encoded", [json.dumps, lambda v: json.dumps(v).encode()])
def test_one_and_many(encoded):
    (one,) = codec.decode_server(encoded(ACCEPTED))
    assert isinstance(one, Accepted)
    two = codec.decode_server(encoded([ACCEPTED, DRAINING]))
    assert [type(m) for m in two] == [Accepted, Draining]


def test_what_is_new_is_passed_over():
    news = {"type": "news", "x": 1}
    assert codec.decode_server(json.dumps(news)) == []
    (one,) = codec.decode_server(json.dumps([news, {**ACCEPTED, "more": 1}]))
    assert isinstance(one, Accepted)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "bad_json"),
        ("[{]", "bad_json"),
        ("[]", "bad_message"),
        ("[1]", "bad_message"),
        ('{"no": "type"}', "bad_message"),
        ('{"type": "accepted", "id": "a", "seq": "1", "ahead": 0}', "bad_message"),
    ],
)
def test_what_is_wrong(frame, code):
    with pytest.raises(codec.Malformed) as caught:
        codec.decode_server(frame)
    assert caught.value.code == code


def test_a_clients_frame_is_decoded_at_once_and_one_by_one_where_one_is_wrong():
    good = b'{"type":"ack","seq":1}'
    assert codec.decode_frame(good, 2) == [Ack(seq=1)]
    assert codec.decode_frame(b" [" + good + b"," + good + b"]", 2) == [Ack(seq=1), Ack(seq=1)]
    first, wrong, last = codec.decode_frame(
        b"[" + good + b',{"type":"ack","seq":"x"},' + good + b"]", 3
    )
    assert (first, last) == (Ack(seq=1), Ack(seq=1))
    assert isinstance(wrong, codec.Malformed)
    assert (wrong.code, wrong.of) == ("bad_message", "ack")
    for frame in (b"[]", b"[" + b",".join([good] * 3) + b"]", b"[" + good):
        with pytest.raises(codec.Malformed):
            codec.decode_frame(frame, 2)
