"""python -m evaluation.serve: one folder, to this machine alone."""

import http.client
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from threading import Thread

import pytest

from common.errors import UserError
from evaluation.serve import server_of
from tests.conftest import ROOT


@pytest.fixture
def report(tmp_path):
    folder = tmp_path / "ev"
    (folder / "report").mkdir(parents=True)
    (folder / "report.html").write_text("<p>the report")
    (folder / "report" / "p 1.js").write_text("volumes")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


@contextmanager
def asking(folder):
    with server_of(folder) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def ask(path, method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield server, ask
        server.shutdown()


def test_it_serves_the_folder_and_nothing_beside_it(report):
    with asking(report) as (server, ask):
        assert server.server_address[0] == "127.0.0.1"
        assert ask("/") == ask("/report.html") == (200, "<p>the report")
        assert ask("/report/p%201.js") == (200, "volumes")
        for path in (
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/report/..%2f..%2fsecret.txt",
            "/link.txt",
            "//etc/passwd",
        ):
            status, text = ask(path)
            assert status == 404, path
            assert "secret" not in text
        assert ask("/report")[0] == ask("/report/")[0] == 404  # no listing of what is there
        assert ask("/", "POST")[0] == 501


def test_another_sites_name_for_this_machine_is_refused(report):
    with asking(report) as (server, ask):
        assert ask("/", Host=f"evil.example:{server.server_port}")[0] == 403
        assert ask("/", Host=f"localhost:{server.server_port}")[0] == 200


def test_no_report_and_a_taken_port_are_told(report, tmp_path):
    with pytest.raises(UserError, match=r"report\.html"):
        server_of(tmp_path)
    with server_of(report) as server, pytest.raises(UserError, match="--port"):
        server_of(report, server.server_port)


def test_ctrl_c_ends_it_with_130(report):
    command = [sys.executable, "-m", "evaluation.serve", str(report), "--port", "0"]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's children ignore it
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heeds) as process:  # noqa: PLW1509
        assert re.match(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == 130
        assert "Traceback" not in said
