"""Names, reasons and logs of others are shown, and not obeyed; sentences break between words on a terminal only."""

import io

import pytest
from rich.text import Text

from cldctl.show.console import Messages, PlainConsole, strong
from cldctl.show.tables import table

ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x9b2J\x07\x08\u202eabc"
SENTENCE = "no longer watching; its jobs go on, each of them, as long as they need. Again: cldctl status demo --watch"


def shown(*objects, terminal: bool = False, width: int = 200, **how) -> str:
    stream = io.StringIO()
    # Without colours, so that every escape sequence on the terminal comes from a text.
    PlainConsole(file=stream, width=width, force_terminal=terminal, no_color=True).print(*objects, **how)
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("wrap", [Text, str, lambda text: table({"name": [text]}), lambda text: strong(text)])
def test_nothing_in_a_text_steers_the_terminal(wrap, terminal):
    text = shown(wrap(ESCAPES), terminal=terminal).replace("\x1b[1m", "").replace("\x1b[0m", "")  # a heading
    assert "[0m" not in text
    assert not any(character in text for character in "\x1b\x07\x08\x9b\u202e")
    for word in ("red", "link", "abc"):
        assert word in text


def test_markup_and_emoji_are_shown_as_they_are():
    assert shown("[red]x[/red] [link=http://x]y[/] :warning: [/]") == "[red]x[/red] [link=http://x]y[/] :warning: [/]\n"


def test_sentences_break_between_words_and_what_is_copied_stays_whole():
    lines = [line.rstrip() for line in shown(SENTENCE, terminal=True, width=60).splitlines()]
    assert len(lines) == 2
    assert max(map(len, lines)) <= 60
    assert " ".join(lines) == SENTENCE
    path = "/scratch/" + "of-somebody/" * 8
    assert path in shown(f"run demo in {path} is new", terminal=True, width=60).split()
    command = f"  cldctl status demo --runs-dir {path} --watch --sort loss\n"
    assert shown(command.rstrip(), terminal=True, width=60) == command
    assert shown(SENTENCE, no_wrap=True, terminal=True, width=60) == f"{SENTENCE}\n", "as files are"


def test_pipes_get_whole_lines():
    for console in (PlainConsole(file=(pipe := io.StringIO()), width=60), Messages(file=pipe, width=60)):
        console.print(SENTENCE)
        console.print(Text(SENTENCE), "again")
    assert pipe.getvalue() == f"{SENTENCE}\n{SENTENCE} again\n" * 2
