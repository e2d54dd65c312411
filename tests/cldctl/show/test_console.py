"""Names, reasons and logs of others are shown, and not obeyed; sentences break between words on a
terminal only."""

import io

import pytest
from rich.text import Text

from cldctl.show import console
from cldctl.show.console import PlainConsole, Working, strong
from cldctl.show.tables import TextTable

ESCAPES = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ "
    "\x9b2J\x07\x08\u202eabc"
)
SENTENCE = (
    "no longer watching; its jobs go on, each of them, as long as they need. Again: cldctl "
    "status demo --watch"
)


def shown(content, terminal=False, width=200):
    stream = io.StringIO()
    # Without colours, so that every escape sequence on the terminal comes from a text.
    PlainConsole(file=stream, width=width, force_terminal=terminal, no_color=True).print(content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "wrap", [Text, str, lambda text: TextTable({"name": [text]}), lambda text: strong(text)]
)
def test_nothing_in_a_text_steers_the_terminal(wrap):
    for terminal in (True, False):
        text = (
            shown(wrap(ESCAPES), terminal=terminal).replace("\x1b[1m", "").replace("\x1b[0m", "")
        )  # a heading
        assert not any(character in text for character in "\x1b\x07\x08\x9b\u202e")
        assert [word for word in ("red", "link", "abc") if word not in text] == []


def test_sentences_break_between_words_and_what_is_copied_stays_whole():
    lines = [line.rstrip() for line in shown(SENTENCE, terminal=True, width=60).splitlines()]
    assert max(map(len, lines)) <= 60
    assert " ".join(lines) == SENTENCE
    path = "/scratch/" + "of-somebody/" * 8
    command = f"  cldctl status demo --runs-dir {path} --watch --sort loss\n"
    assert shown(command.rstrip(), terminal=True, width=60) == command


def work():
    with Working("loading mine", announced=True) as working:
        working.phase("drawing 9 samples")
        for done in range(10):
            working.at(done, 9, "samples")
        working.phase("writing \x1b]0;title\x07[red]x.png")


def test_a_file_gets_a_line_for_each_phase(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", PlainConsole(file=stream, width=80))
    work()
    assert stream.getvalue().splitlines()[:2] == ["loading mine", "drawing 9 samples"]
    assert len(stream.getvalue().splitlines()) == 3
    monkeypatch.setattr(console.err, "quiet", True)
    work()
    assert len(stream.getvalue().splitlines()) == 3, "nothing is said where progress is hidden"
