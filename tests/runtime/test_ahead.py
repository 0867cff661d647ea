from __future__ import annotations

import itertools
import threading
import time

import pytest

from aurora_export.runtime.ahead import Ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "of the test"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not threads()


def ahead(items, n=2):
    return Ahead(items, n, name="of the test")


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.001)


def test_all_items_in_order_and_the_thread_ends_with_them():
    items = ahead(index for index in range(50))
    assert list(items) == list(range(50))
    until(lambda: not threads())
    assert list(items) == []


def test_items_are_made_before_they_are_asked_for_and_no_more_than_n():
    made = []

    def counted():
        for index in itertools.count():
            made.append(index)
            yield index

    items = ahead(counted(), n=3)
    assert next(items) == 0
    until(lambda: len(made) == 4)
    time.sleep(0.02)
    assert made == [0, 1, 2, 3]
    assert next(items) == 1
    until(lambda: len(made) == 5)
    items.close()
    assert len(made) == 5


def test_nothing_is_made_before_the_first_is_asked_for():
    made = []
    items = ahead((made.append(index) for index in range(3)), n=3)
    time.sleep(0.01)
    assert made == []
    items.close()


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        yield 2
        raise LookupError("third")

    items = ahead(broken(), n=5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(LookupError, match="third"):
        next(items)
    assert list(items) == []


def test_closing_ends_thread_and_generator_whatever_they_wait_for():
    closed = []

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    for n_taken in (0, 1, 3):
        items = ahead(endless())
        assert list(itertools.islice(items, n_taken)) == list(range(n_taken))
        items.close()
        items.close()
        assert not threads()
        assert list(items) == []
    assert len(closed) == 2  # one that was never begun has nothing to close


def test_an_error_that_nobody_came_for_is_not_raised_by_close():
    def broken():
        yield 1
        raise LookupError("late")

    items = ahead(broken())
    assert next(items) == 1
    until(lambda: not threads())
    items.close()


def test_it_needs_room_for_one():
    with pytest.raises(ValueError, match="at least 1"):
        ahead(iter(()), n=0)
