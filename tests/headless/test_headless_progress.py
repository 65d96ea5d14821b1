"""The bar and the lines, with a clock of our own."""

import io

import pytest


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def show(part):
    """show(style) -> (progress, stream, clock)."""

    def show(style):
        stream, clock = io.StringIO(), Clock()
        return part("headless.progress").Progress(stream, style, clock), stream, clock

    return show


def test_a_bar_redraws_one_line_with_elapsed_and_remaining_time(show):
    progress, stream, clock = show("bar")
    report = progress.start(4, "Sampling")
    for done in (1, 2, 3, 4):
        clock.now += 2
        report(done)
    drawn = stream.getvalue().split("\r")[1:]
    assert len(drawn) == 5 and drawn[-1].endswith("\n")
    assert drawn[0].startswith("Sampling 0/4 [..............................] 0.0 s elapsed")
    assert drawn[1].startswith("Sampling 1/4 [#######.......................] 2.0 s elapsed, 6.0 s left")
    assert drawn[4].rstrip() == "Sampling 4/4 [##############################] 8.0 s"
    assert len({len(line.rstrip("\n")) for line in drawn[1:]}) == 1  # a shorter line wipes the longer one before it


def test_a_bar_is_not_redrawn_more_often_than_an_eye_sees(show):
    progress, stream, clock = show("bar")
    report = progress.start(10_000, "Writing")
    for done in range(1, 10_001):
        clock.now += 0.001
        report(done)
    assert stream.getvalue().count("\r") < 250


def test_steps_that_were_done_before_say_nothing_of_the_time_left(show):
    progress, stream, clock = show("lines")
    report = progress.start(30, "Sampling")
    for done in range(21, 31):
        clock.now += 6
        report(done, found=20)
    assert stream.getvalue().splitlines()[:2] == [
        "Sampling 22/30, 12.0 s elapsed, 48.0 s left",
        "Sampling 24/30, 24.0 s elapsed, 36.0 s left",
    ]


def test_lines_come_every_ten_seconds_and_at_the_end(show):
    progress, stream, clock = show("lines")
    report = progress.start(30, "Sampling")
    for done in range(1, 31):
        clock.now += 1
        report(done)
    assert stream.getvalue().splitlines() == [
        "Sampling 10/30, 10.0 s elapsed, 20.0 s left",
        "Sampling 20/30, 20.0 s elapsed, 10.0 s left",
        "Sampling 30/30, 30.0 s",
    ]


def test_what_a_long_unit_is_at_is_shown_and_the_time_left_goes_on(show):
    progress, stream, clock = show("lines")
    report = progress.start(3, "Sampling")
    for window in range(1, 4):
        clock.now += 10
        report(0, f"window {window} of 3")
    report(1)
    clock.now += 10
    report(1, "window 1 of 3")
    clock.now += 50
    report(3, "window 3 of 3")
    assert stream.getvalue().splitlines() == [
        "Sampling 0/3, window 1 of 3, 10.0 s elapsed",
        "Sampling 0/3, window 2 of 3, 20.0 s elapsed",
        "Sampling 0/3, window 3 of 3, 30.0 s elapsed",
        "Sampling 1/3, window 1 of 3, 40.0 s elapsed, 50.0 s left",
        "Sampling 3/3, 1:30",
    ]


def test_nothing_is_nothing(show):
    progress, stream, clock = show("none")
    report = progress.start(2, "Sampling")
    clock.now += 60
    report(1), report(2)
    assert stream.getvalue() == ""


def test_a_bar_cut_short_leaves_the_next_line_to_others(show):
    progress, stream, clock = show("bar")
    progress.start(4, "Sampling")(1)
    progress.close()
    progress.close()
    assert stream.getvalue().endswith("\n") and stream.getvalue().count("\n") == 1


def test_nothing_to_do_shows_nothing(show):
    progress, stream, _ = show("bar")
    progress.start(0, "Sampling")
    assert stream.getvalue() == ""


def test_long_times_are_shown_as_clocks_show_them(part):
    duration = part("headless.progress")._duration
    assert [duration(s) for s in (0.04, 59.9, 60, 3599, 3600, 36610)] == [
        *("0.0 s", "59.9 s", "1:00", "59:59", "1:00:00", "10:10:10")
    ]
