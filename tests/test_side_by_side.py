"""Pieces of work at a time: in their order, no more than were asked for, and what happens when one fails."""

import threading

import pytest

from cl_imitate.interruption import InterruptedRunError
from cl_imitate.side_by_side import side_by_side


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_all_is_done_begun_in_order_and_at_most_so_much_at_a_time(at_once):
    begun, under_way, most, lock = [], set(), [0], threading.Lock()
    all_there = threading.Barrier(min(at_once, 4))

    def piece(name):
        with lock:
            begun.append(name)
            under_way.add(name)
            most[0] = max(most[0], len(under_way))
        if name in "abcd"[: all_there.parties]:
            all_there.wait(timeout=30)  # one after the other, the first ones would never be here together
        with lock:
            under_way.remove(name)

    side_by_side({name: lambda name=name: piece(name) for name in "abcd"}, at_once=at_once)
    assert sorted(begun) == list("abcd")
    assert most[0] == all_there.parties
    if at_once == 1:
        assert begun == list("abcd")


def test_one_at_a_time_is_done_in_the_caller_s_thread():
    threads = []
    side_by_side({name: lambda: threads.append(threading.current_thread()) for name in "ab"}, at_once=1)
    assert threads == [threading.current_thread()] * 2


def test_after_a_failure_nothing_is_begun_and_what_is_under_way_is_done(capsys):
    failed, done = threading.Event(), []

    def fails():
        failed.set()
        raise ValueError("it cannot be")

    def lasts():
        failed.wait(timeout=30)
        done.append("lasts")

    work = {"lasts": lasts, "fails": fails, "never": lambda: done.append("never")}
    with pytest.raises(ValueError, match="it cannot be"):
        side_by_side(work, at_once=2)
    assert done == ["lasts"]
    assert "fails failed (ValueError); what is under way is done first: lasts" in capsys.readouterr().err


def test_a_failure_is_told_rather_than_a_notice_to_stop():
    stopped = threading.Event()

    def stops():
        stopped.set()
        raise InterruptedRunError(15)

    def fails():
        stopped.wait(timeout=30)
        raise ValueError("it cannot be")

    with pytest.raises(ValueError, match="it cannot be"):
        side_by_side({"stops": stops, "fails": fails}, at_once=2)
    with pytest.raises(InterruptedRunError):
        side_by_side({"stops": stops, "ends": lambda: None}, at_once=2)
