"""Shows a report with CTs at full size, to this machine alone: `python -m evaluation.serve outputs/evaluation`."""

import argparse
import logging
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from common.errors import UserError

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
PAGE = "report.html"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; script-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Files(SimpleHTTPRequestHandler):
    """Files below one folder, to be read."""

    def send_head(self) -> Any:
        root, path = Path(self.directory).resolve(), Path(self.translate_path(self.path)).resolve()
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):  # another site's name for us
            return self.send_error(HTTPStatus.FORBIDDEN)
        if self.path == "/favicon.ico":  # browsers ask, and complain of a 404
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path == root:
            self.path = f"/{PAGE}"
        elif root not in path.parents or not path.is_file():
            return self.send_error(HTTPStatus.NOT_FOUND)
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


def server_of(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of the report in `folder` on 127.0.0.1; of any free port if that is 0.

    Raises:
        UserError: no report is there, or the port is taken.
    """
    if not (folder / PAGE).is_file():
        raise UserError(f"a report is the run_dir of an evaluation, with {PAGE} in it; {folder} has none")
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Files, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} of {HOST} cannot be had ({error}); choose another with --port") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, metavar="REPORT", help="the run_dir of an evaluation")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one (default: %(default)s)")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = parser.parse_args()
    try:
        server = server_of(given.report, given.port)
    except UserError as error:
        parser.error(str(error))
    with server:
        try:
            log.info("http://%s:%d/ (Ctrl-C ends it)", HOST, server.server_port)
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("ended")
            sys.exit(130)


if __name__ == "__main__":
    main()
