"""A report as a page of its own: no script, nothing from elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from asynccache.cli.ledger_table import in_order, left_out, money, notes
from asynccache.telemetry.ledger import Account, Report

_STYLE = """
:root { color-scheme: light dark; --spent: #c2410c; --saved: #15803d; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); }
dl div { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; }
dt { font-size: .85rem; } dd { font-size: 1.4rem; font-weight: 600; margin: 0; } dd small { display: block;
  font-size: .8rem; font-weight: 400; }
.wide { overflow-x: auto; } table { border-collapse: collapse; min-width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { min-width: 9rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
.bar { display: flex; height: .8rem; min-width: 10rem; } .bar span { display: block; height: 100%; }
.spent { background: var(--spent); } .saved { background: var(--saved); }
.key span { display: inline-block; height: .7rem; margin: 0 .3rem 0 1rem; width: .7rem; }
"""
_TABLES = (("days", "By day"), ("models", "By model"), ("tags", "By tag"), ("tenants", "By tenant"))


def page(report: Report) -> str:
    """The whole page, as HTML."""
    total = report.total
    cards = (
        ("Spent", money(total.spent), f"{total.upstream_calls:,} upstream calls"),
        ("Saved by the cache", money(total.saved), f"{total.hit_ratio:.1%} of {total.calls:,} calls"),
        ("Saved by the provider's cache", money(total.cache_saved), f"{total.cached_read:,} tokens read"),
        ("Spent on the provider's cache", money(total.cache_spent), f"{total.cached_write:,} tokens written"),
        ("Spent on embeddings", money(total.embeddings_spent), "of what was spent"),
    )
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>asynccache: report</title><style>{_STYLE}</style></head><body>",
        f"<h1>What the cache has saved</h1><p>{_span(report)}</p><dl>",
        *(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in cards),
        "</dl>",
        '<p class="key"><span class="spent"></span>spent<span class="saved"></span>saved</p>',
        *(_table(title, getattr(report, name), name) for name, title in _TABLES if getattr(report, name)),
        *(f"<p>{escape(note)}</p>" for note in notes(report)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _span(report: Report) -> str:
    if report.since is None or report.until is None:
        return "No calls yet."
    since, until = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (report.since, report.until))
    return f"{since} to {until} UTC"


def _table(title: str, labelled: dict[str, Account], by: str) -> str:
    accounts = in_order(labelled, by)
    names = ("calls", "hits", "tokens in", "tokens out", "spent", "saved", "unknown")
    most = max((account.spent + account.saved for _, account in accounts), default=0)
    rows = [_row(label, account, most) for label, account in accounts]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *names, ""))
    table = f'<h2>{title}</h2><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    more = left_out(labelled, by)
    return f"{table}<p>{escape(more)}</p>" if more else table


def _row(label: str, account: Account, most: int) -> str:
    cells = (
        f"{account.calls:,}",
        f"{account.hit_ratio:.1%}",
        f"{account.input:,}",
        f"{account.output:,}",
        money(account.spent),
        money(account.saved),
        f"{account.unknown_spent + account.unknown_saved:,}",
    )
    bars = "".join(
        f'<span class="{name}" style="width:{100 * amount / most:.2f}%"></span>'
        for name, amount in (("spent", account.spent), ("saved", account.saved))
        if most and amount
    )
    inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><td>{escape(label)}</td>{inner}<td><div class="bar">{bars}</div></td></tr>'
