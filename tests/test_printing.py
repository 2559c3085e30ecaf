"""Whatever a stranger wrote, the terminal only shows it: nothing is obeyed, no line is faked, no command is run.

A text acts on a terminal through characters of the categories Cc (controls, ESC among them), Cf (directions, zero
width), Zl and Zp (line and paragraph separators). So "no such character but the line's own end" is the property.
"""

import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from llmrec.cli.run import try_it
from llmrec.evaluation.reporting.write import _environment
from llmrec.evaluation.table import code
from llmrec.printing import command, echo, json_line, lines, one_line, shell_word, short_line
from llmrec.progress import Bar
from llmrec.screen import Screen

HOSTILE = (
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31mC1",
    "ends\nllmrec: all is well",
    "ends\rllmrec: overwritten",
    "para\u2029graph\u2028line\x85next",
    "abc\u202egnp.exe",
    "zero\u200bwidth\ufeff",
    "tab\tbell\a back\b\b\bspace\x00nul\x7f",
    "[link=https://evil.example]markup[/link] [bold]",
    "lone \ud800 surrogate",
)


def acting(text):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_harmless_line(text):
    assert acting(one_line(text)) == []


@given(st.text(max_size=300), st.integers(1, 60))
def test_any_text_is_one_harmless_bounded_line(text, limit):
    shown = one_line(text, limit)
    assert acting(shown) == []
    assert len(shown) <= limit


def test_readable_text_stays_as_it_is():
    for text in ("Fargo (1996)", "千と千尋の神隠し", "Amélie — naïve", "שלום", "🎬 café"):
        assert one_line(text) == text


def test_long_text_is_cut_and_says_so():
    assert one_line("x" * 10**8, 9) == "xxx … xxx"
    assert one_line("a b  c") == "a b c"


@pytest.mark.parametrize("text", HOSTILE)
def test_screen_and_echo_pass_nothing_that_acts(text, capsys):
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    table.add_row(Text(text))
    for terminal in (False, True):
        file = io.StringIO()
        screen = Screen(width=100)
        screen.file = file
        if terminal:
            screen._force_terminal = True
        screen.print(text)
        screen.print(table)
        screen.print(Text(text, style="dim") if not terminal else text)
        assert [c for c in acting(file.getvalue()) if c != "\n"] == []
    echo(text)
    echo(text, err=True)
    printed = capsys.readouterr()
    assert [c for c in acting(printed.out + printed.err) if c != "\n"] == []


def test_markup_of_a_stranger_is_printed_as_it_stands():
    screen = Screen(width=100)
    screen.file = io.StringIO()
    screen.print("[link=https://evil.example]x[/link] :smile:")
    assert screen.file.getvalue() == "[link=https://evil.example]x[/link] :smile:\n"


def test_a_bar_shows_a_note_on_one_line(capsys):
    with Bar("title\nllmrec: fake", 2, every_s=0) as bar:
        bar.advance(note="\x1b[31m\nfake")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert all(line.startswith("title llmrec: fake: 1/2") for line in err.splitlines())


@given(st.text(max_size=50))
def test_json_says_the_same_and_shows_nothing_that_acts(text):
    line = json_line({"title": text})
    assert acting(line) == []
    assert json.loads(line) == {"title": text}


def test_json_keeps_letters_readable():
    assert json_line(["千", "é", "\x9b", "\u202e"]) == '["千", "é", "\\u009b", "\\u202e"]'


def test_lines_keeps_line_feeds_alone():
    assert lines("a\nb\r\x1bc") == "a\nb  c"


WORDS = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"$HOME"',
    "back\\slash",
    "a\nb",
    "\x1b[31m$(touch pwned)'\\",
    "  spaces  ",
    "",
    "* ? [x] {a,b} ~ !1 #c %d",
    "日本 é",
    "-lead",
)


def argv_of(line, folder):
    """What a stub named llmrec is given when bash runs `line`."""
    stub = folder / "llmrec"
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stub.chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert sorted(path.name for path in folder.iterdir()) == ["llmrec"]
    return json.loads(done.stdout)


def test_a_shown_command_gives_bash_the_same_words_back(tmp_path):
    line = command(["llmrec", *WORDS])
    assert acting(line) == []
    assert argv_of(line, tmp_path) == list(WORDS)
    assert shell_word("plain-1.5/x") == "plain-1.5/x"


def test_bytes_that_are_no_utf8_come_back_from_a_shown_command(tmp_path):
    assert argv_of(command(["llmrec", "a\udcffb"]), tmp_path) == ["a\udcffb"]


@pytest.mark.parametrize("title", [*WORDS, *HOSTILE])
@pytest.mark.parametrize("out", ["-lead/$(touch pwned)", "a b/it's"])
def test_the_hint_after_a_run_asks_what_it_says(title, out, tmp_path):
    hint = try_it(Path(out), title)
    assert len(hint.splitlines()) == 1
    asked = argv_of(hint, tmp_path)
    assert asked == ["recommend", f"--model={out}", f"--prompt=I liked {short_line(title)}", "-k", "5"]


@pytest.mark.parametrize("text", [*HOSTILE, "``` end ` x", "`"])
def test_pages_and_cards_hold_nothing_that_acts(text):
    page = _environment(autoescape=True).from_string("<p>{{ text }}</p>").render(text=text)
    markup = _environment(autoescape=False).from_string("{{ text|md }} {{ text|fenced }}").render(text=text)
    for shown in (page, markup, code(text)):
        assert [c for c in acting(shown) if c != "\n"] == []
    ticks = len(code(text)) - len(code(text).lstrip("`"))
    assert "`" * ticks not in code(text)[ticks:-ticks]


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_an_encoding_without_the_letters_prints_escapes(settings):
    code = (
        "from llmrec.cli.guard import set_environment\nset_environment()\n"
        "from llmrec.printing import echo\nfrom llmrec.screen import Screen\n"
        "echo('\\u5343\\u3068')\nScreen().print('\\u5343\\u3068')\necho('\\xe9', err=True)\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8"))}
    done = subprocess.run([sys.executable, "-c", code], env={**kept, **settings}, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"\\u5343\\u3068\n" * 2
    assert done.stderr == b"\\xe9\n"
