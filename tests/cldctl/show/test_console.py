"""Names, reasons and logs of others are shown, and not obeyed; sentences break between words on a terminal only."""

import io

import pytest
from rich.text import Text

from cldctl.show import console, follow
from cldctl.show.console import PlainConsole, Working, strong
from cldctl.show.follow import Shown, View
from cldctl.show.tables import table

ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x9b2J\x07\x08\u202eabc"
SENTENCE = "no longer watching; its jobs go on, each of them, as long as they need. Again: cldctl status demo --watch"


def shown(*objects, terminal=False, width=200, **how):
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
    assert [word for word in ("red", "link", "abc") if word not in text] == []


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


@pytest.fixture
def stream(monkeypatch, request):
    """What stderr gets: a file, or a terminal of so many columns (`indirect`)."""
    stream, width = io.StringIO(), getattr(request, "param", None)
    err = PlainConsole(file=stream, width=width or 80, force_terminal=width is not None, color_system=None)
    for module in (console, follow):
        monkeypatch.setattr(module, "err", err)
    return stream


def work(announced=True):
    with Working("loading mine", announced=announced) as working:
        working.phase("drawing 9 samples")
        working.phase("drawing 9 samples")
        for done in range(10):
            working.at(done, 9, "samples")
        working.phase("writing \x1b]0;title\x07[red]x.png")


@pytest.mark.parametrize("stream", [80], indirect=True)
def test_a_terminal_gets_a_bar_that_disappears(stream):
    work()
    text = stream.getvalue()
    assert "[red]x.png" in text
    assert "\x1b]0" not in text
    assert text.endswith("\x1b[1A\x1b[2K"), "the line of the bar is cleared"
    assert "\x1b[?25h" in text, "the cursor is back"


def test_a_file_gets_a_line_for_each_phase(stream, monkeypatch):
    work()
    assert stream.getvalue().splitlines()[:2] == ["loading mine", "drawing 9 samples"]
    assert len(stream.getvalue().splitlines()) == 3
    monkeypatch.setattr(console.err, "quiet", True)
    work()
    with View() as view:
        view.show(training())
    assert len(stream.getvalue().splitlines()) == 3, "nothing is said where progress is hidden"


def training(**known):
    usual = {"name": "mine", "done": 5_400, "total": 12_000, "state": "RUNNING", "phase": "training"}
    return Shown(**{**usual, "facts": ("loss 0.12", "221 steps/s"), "elapsed_s": 80.0, "left_s": 190.0, **known})
