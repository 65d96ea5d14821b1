"""`python -m headless schedule`: the table, what goes where, exit codes."""

import io
import signal
import sys

import pytest

GOOD = '{"0": "a red circle", "2": "a blue circle --neg blurry"}'


@pytest.fixture
def cli(part, capsys):
    """cli(arguments...) -> (exit code, stdout, stderr)."""
    before = signal.getsignal(signal.SIGTERM)

    def cli(*arguments):
        try:
            code = part("headless.cli").main(["schedule", *map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    yield cli
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def file(tmp_path):
    def file(text, name="prompts.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return file


def test_it_prints_the_table_that_the_node_shows(cli, file, part):
    code, out, err = cli(file(GOOD))
    assert (code, err) == (0, "")
    assert out == part("nodes").T2VScheduleInspect().inspect(GOOD, "auto", 16, 8.0, "auto")["result"][0] + "\n"


def test_options_count(cli, file):
    path = file("0:(1.0) @hold, 1s:(3.5)")
    _, out, _ = cli(path, "--frames", 6, "--fps", 4, "--every", 2)
    rows = [line.split() for line in out.split("\n")[4:-1]]
    assert rows == [["0", "0.000", "*", "1", "1"], ["2", "0.500", "1", "1"], ["4", "1.000", "*", "3.5", "4"]]
    assert "P1" in cli(path, "--kind", "prompts")[1] and "P1" not in out
    assert "dialect: ade (as asked for)" in cli(path, "--dialect", "ade")[1]


def test_it_reads_stdin_where_the_file_is_a_dash(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf0:(t)")))
    code, out, _ = cli("-", "--frames", 3)
    assert code == 0 and [line.split()[-1] for line in out.split("\n")[4:-1]] == ["0", "1", "2"]


def test_a_wrong_schedule_has_a_caret_and_exit_code_2(cli, file):
    path = file('{"0": "a red circle"\n "5": "a", "7" "b"}')
    code, out, err = cli(path)
    assert (code, out) == (2, "")
    lines = err.split("\n")
    assert lines[0].startswith(f"error: {path}: line 2, column 2: expected `,` before the next key")
    assert lines[1:3] == ['   "5": "a", "7" "b"}', "   ^"]
    second = next(line for line in lines[3:] if line.startswith("error"))
    assert second.startswith(f"error: {path}: line 2, column 16: expected `:` after the key")


def test_what_only_the_clip_shows_to_be_wrong_is_wrong_too(cli, file):
    code, out, err = cli(file("0:(1/(t-2))"), "--frames", 5)
    assert (code, out) == (2, "") and "column 3: this is not a finite number at frame 2" in err
    assert cli(file("9:(1)"), "--frames", 5)[0] == 2


def test_warnings_go_to_stderr_and_the_table_is_printed(cli, file):
    path = file("0:(1), 99:(2)")
    code, out, err = cli(path)
    assert code == 0 and out.count("\n") == 20 and "warning" not in out
    assert err.startswith(f"warning: {path}: line 1, column 8: this key is frame 99, past the last frame, 15")
    assert err.split("\n")[1:3] == ["  0:(1), 99:(2)", "         ^"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe0\x00", "not UTF-8 text: byte 0"),
        (b"0:(1)" + b" " * (16 * 2**20), "larger than 16,777,216 bytes"),
    ],
)
def test_files_that_are_no_text_or_too_large_are_refused(cli, file, content, says):
    path = file(content)
    code, out, err = cli(path)
    assert (code, out) == (2, "") and err.startswith(f"error: {path}: {says}") and err.count("\n") == 1


def test_a_file_may_be_larger_than_a_node_s_text(cli, file):
    text = ",\n".join(f"{key}:({key % 7})" for key in range(40_000))
    assert len(text) > 2**18
    code, out, err = cli(file(text), "--frames", 40_000, "--every", 10_007)
    assert (code, err) == (0, "") and out.rstrip().split("\n")[-1].split()[0] == "30021"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "the following arguments are required: FILE"),
        (("/no/such",), "/no/such: cannot be read: No such file or directory"),
        (("/",), "/: cannot be read: Is a directory"),
        (("a\0b",), "cannot be read"),
        (("x", "--frames", "0"), "--frames: 0 is not a whole number from 1"),
        (("x", "--frames", "1.5"), "--frames: 1.5 is not a whole number"),
        (("x", "--frames", "9" * 30), "is not a whole number"),
        (("x", "--every", "-1"), "--every: -1 is not a whole number"),
        (("x", "--fps", "nan"), "--fps: nan is not a number"),
        (("x", "--kind", "both"), "invalid choice: 'both'"),
        (("x", "--dialect", "mine"), "invalid choice: 'mine'"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(cli, arguments, says):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and says in err and err.count("\n") == 1


def test_terminals_get_no_escapes(cli, file):
    code, out, err = cli(file('{"0": "red\x1b[31m \u202e\x9b", "9\x1b[31m": 1}'), "--kind", "prompts")
    assert code == 2 and "\x1b" not in err
    code, out, err = cli(file('{"0": "red\x1b[31m \u202e\x9b caf\u00e9"}'))
    assert code == 0 and not {"\x1b", "\u202e", "\x9b"} & set(out) and "caf\u00e9" in out


def test_it_runs_as_a_program_and_help_documents_the_exit_codes(headless, file):
    ran = headless("schedule", file('{"0": "\u65e5"}'), "--frames", "2", env={"PYTHONIOENCODING": "ascii"})
    assert (ran.returncode, ran.stderr) == (0, "") and 'P1 "\\u65e5"' in ran.stdout
    ran = headless("schedule", "--help")
    assert ran.returncode == 0 and "2 the command or the schedule is wrong" in " ".join(ran.stdout.split())
