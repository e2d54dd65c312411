"""The commands of docs/notifications.md do what it says: they are read from there and run."""

import json
import os
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from cld_core.config import load
from cldctl.jobs.hook_call import call
from cldctl.jobs.hook_runner import sentence, variables
from tests.support.paths import RECIPES, ROOT

DOC = (ROOT / "docs" / "notifications.md").read_text()
CONTENT = {
    "run": "toy-1",
    "path": "/runs/toy-1",
    "what": "run",
    "state": "FAILED",
    "cause": "crashed",
    "reason": """it's "quoted"; $(touch /tmp/x) `id` & more""",
    "step": 120,
    "steps": 1000,
    "link": "file:///runs/toy-1",
}
TEXT = sentence(CONTENT)


def commands() -> dict[str, str]:
    """The documented hooks, by the word that tells them apart, as a recipe has them."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)
    found = {}
    for block in blocks:
        command = yaml.safe_load(block)["hooks"]["on_change"]
        name = next(word for word in ("webhook", "slack", "ntfy", "sendmail", "mail") if word in command)
        found[name] = command
    return found


def said(command: str, home: Path, **more: object) -> str:
    content = {**CONTENT, **more}
    content["text"] = sentence(content)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}", **variables(content)}
    line = json.dumps(content) + "\n"
    result = call(command, environment=environment, content=line, timeout_s=60.0, folder=home)
    assert result.problem is None, result.output
    return result.output


@pytest.fixture
def home(tmp_path) -> Path:
    """A home with a `mail` and a `sendmail` that write down what they get."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".config" / "cldctl").mkdir(parents=True)
    for name in ("mail", "sendmail"):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > {tmp_path}/{name}.arguments\ncat > {tmp_path}/{name}.text\n')
        file.chmod(0o755)
    return tmp_path


@pytest.fixture
def posted(home):
    """What a web server gets: (path, headers, body)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            requests.append((self.path, self.headers, body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok\n")

        def log_message(self, *arguments):
            pass

    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("webhook", "slack", "ntfy"):
        (home / ".config" / "cldctl" / name).write_text(f"http://127.0.0.1:{server.server_port}/{name}\n")
    yield requests
    server.shutdown()
    server.server_close()


def test_every_example_is_a_recipe():
    assert list(commands()) == ["mail", "sendmail", "webhook", "slack", "ntfy"]
    for command in commands().values():
        recipe = load(RECIPES / "toy.yaml", [f"hooks.on_change={json.dumps(command)}"])
        assert recipe.hooks.on_change == command


def test_mail(home):
    said(commands()["mail"], home)
    assert (home / "mail.arguments").read_text() == "-s|toy-1 FAILED|you@example.org|"
    assert (home / "mail.text").read_text() == f"{TEXT}\n\nfile:///runs/toy-1\n"
    (home / "mail.text").unlink()
    said(commands()["mail"], home, state="RUNNING")
    assert not (home / "mail.text").exists(), "nobody wants to hear of each beginning"


def test_sendmail(home):
    said(commands()["sendmail"], home)
    assert (home / "sendmail.arguments").read_text() == "-t|"
    assert (home / "sendmail.text").read_text() == f"To: you@example.org\nSubject: toy-1 FAILED\n\n{TEXT}\n"


@pytest.mark.parametrize(
    ("name", "header", "value", "body"),
    [
        ("webhook", "Content-Type", "application/json", {**CONTENT, "text": TEXT}),
        ("slack", "Content-Type", "application/json", {"text": TEXT}),
        ("ntfy", "Title", "toy-1 FAILED", TEXT),
    ],
)
def test_what_is_posted(home, posted, name, header, value, body):
    said(commands()[name], home)
    ((path, headers, content),) = posted
    assert (path, headers[header]) == (f"/{name}", value)
    assert (content if name == "ntfy" else json.loads(content)) == body


def test_all_variables_are_documented():
    for name in variables({**CONTENT, "text": TEXT}):
        assert f"`{name}`" in DOC
