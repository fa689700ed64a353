"""`asynccache report`, as a user runs it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from asynccache.cli import build_app
from asynccache.cli.ledger_page import page
from asynccache.cli.ledger_table import money
from asynccache.telemetry.ledger import Account, Ledger, Report
from asynccache.telemetry.observation import Usage
from asynccache.telemetry.prices import PICODOLLARS, Prices
from tests.telemetry.samples import made, miss, seen

PRICES = Prices({"gpt-4o": {"input": 2.5, "output": 10, "cache_read": 1.25}}, library=False)


def run(*args: str, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "120", **environment}).invoke(build_app(), ["report", *args])


def fill(books: Ledger) -> Ledger:
    for number in range(3):
        books.observe(seen(tenant="acme", tags=("faq",), began=1_750_000_000.0 + 86_400 * number))
    books.observe(miss())
    books.observe_upstream(made(usage=Usage(1_000_000, 0, 400_000)))
    books.observe_upstream(made(model="<script>alert(1)</script>", call_type="embedding"))
    return books


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "calls.jsonl"
    await fill(Ledger(PRICES, path=path)).aclose()
    return path


@pytest.fixture
def report() -> Report:
    return fill(Ledger(PRICES)).report()


def test_the_terminal(file: Path) -> None:
    result = run(str(file))
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "spent $2.00 2 upstream calls" in words
    assert "saved by the cache $0.0105 75.0% of 4 calls" in words
    assert "saved by the provider's cache $0.500000" in words.replace("$0.5000", "$0.500000")
    assert "400,000 tokens read" in words
    assert "<script>alert(1)</script>" in words
    assert "1 upstream call at an unknown cost: in no sum" in words
    assert "█" in words


@pytest.mark.parametrize(("by", "label"), [("tags", "faq"), ("tenants", "acme"), ("days", "2025-06-17")])
def test_other_tables(file: Path, by: str, label: str) -> None:
    assert label in run(str(file), "--by", by).stdout


def test_json(file: Path, report: Report) -> None:
    said = json.loads(run(str(file), "--json").stdout)
    assert Report.from_dict(said) == report
    assert said["total"]["spent"] == "2"
    assert said["hit_ratio"] == 0.75


class Reader(HTMLParser):
    """What a page fetches, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing(file: Path, report: Report, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    assert run(str(file), "--html", str(html)).exit_code == 0
    text = html.read_text()
    assert text == page(report)
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert not reader.fetched
    assert "script" not in reader.tags
    assert "url(" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for words in ("$2.00", "75.0% of 4 calls", "By tenant", "acme", "at an unknown cost", "2025-06-15 15:06"):
        assert words in text
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", text)]
    assert widths
    assert all(0 < width <= 100 for width in widths)


def test_an_empty_ledger(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").touch()
    assert "The ledger is empty." in run(str(tmp_path / "calls.jsonl")).stdout
    assert "No calls yet." in page(Report())


def test_what_is_left_out_of_a_table_is_told() -> None:
    days = {f"2025-06-{day:02}": Account(calls=1, spent=day) for day in range(1, 26)}
    report = Report(Account(calls=25, unknown_saved=2), since=0.0, until=1.0, days=days, models={"m": Account(calls=1)})
    text = page(report)
    assert "and 5 earlier days" in text
    assert "2025-06-05" not in text
    assert "2 answers from the cache that would have cost nobody knows what" in text
    assert "with less money" not in text


@contextmanager
def proxy(status: int, body: bytes, asked: list[tuple[str, str | None]]) -> Iterator[str]:
    """Something that answers every GET so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["authorization"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_of_a_proxy(report: Report) -> None:
    asked: list[tuple[str, str | None]] = []
    with proxy(200, json.dumps(report.as_dict()).encode(), asked) as url:
        result = run("--url", f"{url}/", "--json", ASYNCCACHE_MASTER_KEY="sk-master")
    assert Report.from_dict(json.loads(result.stdout)) == report
    assert asked == [("/cache/report", "Bearer sk-master")]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"", "answered 401 Unauthorized: set ASYNCCACHE_MASTER_KEY"),
        (500, b"", "answered 500"),
        (200, b"<html>", "that is no report"),
        (200, b"[]", "that is no report"),
    ],
)
def test_a_proxy_that_says_something_else(status: int, body: bytes, words: str) -> None:
    with proxy(status, body, []) as url:
        result = run("--url", url)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give a ledger's file, or the --url"),
        (["missing.jsonl"], "missing.jsonl: No such file"),
        ([__file__], "no line of it is a ledger's"),
        (["--url", "ftp://127.0.0.1"], "an address such as"),
        (["--url", "http://127.0.0.1:1"], "refused"),
    ],
)
def test_wrong_input(args: list[str], words: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert words in result.stderr


def test_money_is_readable() -> None:
    amounts = [0, 1, 10**6, 4 * 10**6 // 3, PICODOLLARS // 50, PICODOLLARS * 1234567]
    assert [money(amount) for amount in amounts] == [
        "$0",
        "<$0.000001",
        "$0.000001",
        "$0.000001",
        "$0.0200",
        "$1,234,567.00",
    ]
