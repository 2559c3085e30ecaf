"""Lines of the journal on their way to standard error."""

from __future__ import annotations

import io
import json
import threading

from llmrec.service.logs import Lines


class Stream(io.StringIO):
    """Tells of its writes, and holds them back where it is asked to."""

    def __init__(self):
        super().__init__()
        self.writes, self.free, self.began = 0, threading.Event(), threading.Event()
        self.free.set()

    def write(self, text):
        self.began.set()
        assert self.free.wait(30)
        self.writes += 1
        return super().write(text)


def test_lines_of_a_moment_are_written_at_once_in_their_order():
    stream = Stream()
    with Lines(stream) as lines:
        for n in range(500):
            lines.write(f"line {n}")
    assert stream.getvalue().splitlines() == [f"line {n}" for n in range(500)]
    assert stream.writes < 50


def test_a_line_does_not_wait_for_the_next_one():
    stream = Stream()
    with Lines(stream) as lines:
        lines.write("alone")
        assert stream.began.wait(30)


def test_a_reader_who_does_not_read_stops_nobody():
    stream = Stream()
    stream.free.clear()
    with Lines(stream, most=3) as lines:
        lines.write("taken")
        assert stream.began.wait(30)
        for n in range(10):
            lines.write(f"line {n}")
        stream.free.set()
    *written, lost = stream.getvalue().splitlines()
    assert written == ["taken", "line 0", "line 1", "line 2"]
    told = json.loads(lost)
    assert (told["event"], told["lines"]) == ("lost", 7)


def test_a_stream_that_is_closed_stops_nobody():
    stream = io.StringIO()
    with Lines(stream) as lines:
        stream.close()
        lines.write("nobody reads this")


def test_lines_of_many_threads_are_all_there():
    stream = Stream()
    with Lines(stream) as lines:
        threads = [
            threading.Thread(target=lambda t=t: [lines.write(f"{t} {n}") for n in range(200)]) for t in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = stream.getvalue().splitlines()
    assert sorted(written) == sorted(f"{t} {n}" for t in range(8) for n in range(200))
    assert [line for line in written if line.startswith("3 ")] == [f"3 {n}" for n in range(200)]
