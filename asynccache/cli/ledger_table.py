"""A report in the terminal."""

from __future__ import annotations

from decimal import Decimal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from asynccache.telemetry.ledger import Account, Report
from asynccache.telemetry.prices import dollars

_ROWS = 20
_BAR = 32


def show(report: Report, by: str) -> None:
    """Print the sums, a table by label, and a chart of what was spent and saved."""
    console = Console(highlight=False)
    if not report.total.calls and not report.total.upstream_calls:
        console.print("The ledger is empty.")
        return
    console.print(_head(report.total))
    accounts: dict[str, Account] = getattr(report, by)
    if accounts:
        ordered = in_order(accounts, by)
        console.print(_table(ordered, by))
        if any(account.spent or account.saved for _, account in ordered):
            console.print(_chart(ordered))
        if more := left_out(accounts, by):
            console.print(Text(more, style="dim"))
    for note in notes(report):
        console.print(Text(note, style="yellow"))


def in_order(accounts: dict[str, Account], by: str) -> list[tuple[str, Account]]:
    """Days as they came, the latest last; all else by money, the largest first. So many as are worth looking at."""
    if by == "days":
        return sorted(accounts.items())[-_ROWS:]
    return sorted(accounts.items(), key=lambda item: (-(item[1].spent + item[1].saved), item[0]))[:_ROWS]


def left_out(accounts: dict[str, Account], by: str) -> str:
    """What of the accounts is not among those; "" when all are."""
    which = "earlier days" if by == "days" else f"{by} with less money"
    return f"and {len(accounts) - _ROWS:,} {which}" if len(accounts) > _ROWS else ""


def money(picodollars: int) -> str:
    """Dollars as one reads them: cents, or as many digits as a small sum needs."""
    value = dollars(picodollars)
    if not value:
        return "$0"
    if value < Decimal("0.000001"):
        return "<$0.000001"
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}" if value >= Decimal("0.01") else f"${value:.6f}"


def notes(report: Report) -> list[str]:
    """What the sums do not have in them."""
    total = report.total
    facts = (
        (total.unknown_spent, "upstream call{s} at an unknown cost: in no sum"),
        (total.unknown_saved, "answer{s} from the cache that would have cost nobody knows what: in no sum"),
        (report.unwritten, "line{s} not in the ledger's file, or unreadable"),
    )
    return [f"{count:,} {what.format(s='' if count == 1 else 's')}" for count, what in facts if count]


def _head(total: Account) -> Group:
    grid = Table.grid(padding=(0, 2))
    lines = [
        ("spent", money(total.spent), f"{total.upstream_calls:,} upstream calls"),
        ("saved by the cache", money(total.saved), f"{total.hit_ratio:.1%} of {total.calls:,} calls"),
        ("saved by the provider's cache", money(total.cache_saved), f"{total.cached_read:,} tokens read"),
        ("spent on the provider's cache", money(total.cache_spent), f"{total.cached_write:,} tokens written"),
        ("spent on embeddings", money(total.embeddings_spent), "of what was spent"),
    ]
    for name, amount, more in lines:
        grid.add_row(name, Text(amount, style="bold", justify="right"), Text(more, style="dim"))
    return Group(grid, "")


def _table(accounts: list[tuple[str, Account]], by: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(by.removesuffix("s"), overflow="fold")
    for name in ("calls", "hits", "tokens in", "out", "spent", "saved", "unknown"):
        table.add_column(name, justify="right")
    for label, account in accounts:
        table.add_row(
            Text(label),
            f"{account.calls:,}",
            f"{account.hit_ratio:.1%}",
            f"{account.input:,}",
            f"{account.output:,}",
            money(account.spent),
            money(account.saved),
            f"{account.unknown_spent + account.unknown_saved:,}",
        )
    return table


def _chart(accounts: list[tuple[str, Account]]) -> Group:
    most = max(account.spent + account.saved for _, account in accounts)
    grid = Table.grid(padding=(0, 2))
    for label, account in accounts:
        spent, saved = (round(_BAR * amount / most) for amount in (account.spent, account.saved))
        grid.add_row(Text(label), Text.assemble(("█" * spent, "red"), ("░" * saved, "green")))
    return Group("", grid, Text.assemble(("█ spent  ", "red"), ("░ saved", "green")))
