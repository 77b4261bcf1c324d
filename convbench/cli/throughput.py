"""``convbench throughput``: the main job."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..schema import Case
from . import INTERRUPTED, options, sweep

KEYS = (
    "model",
    "res",
    "batch",
    "backend",
    "precision",
    "device",
    "threads",
    "repeat",
    "mode",
    "params",
    "macs",
    "winograd_macs",
    "images_per_s",
    "interval",
    "latency_s_p50",
    "build_s",
    "prepare_s",
    "limit_fraction",
    "ratio",
    "difference",
    "status",
    "verdict",
)
PLAN_KEYS = (
    "model",
    "res",
    "batch",
    "backend",
    "precision",
    "device",
    "threads",
    "repeat",
    "mode",
    "needed_bytes",
    "total_s",
    "skipped",
)
NOTES = (
    "MACs: of one image, what the papers print as FLOPs. of limit: share of the images/s that the rates measured "
    "on this machine in the same minute would allow.",
)


@click.command(
    "throughput",
    short_help="the FLOPs and throughput table",
    epilog="\b\nExamples:\n  convbench throughput --model dic_xl --res 512\n"
    "  convbench throughput --model dico_s,dit_s_2 --batch 1,4 --backend eager,compile --out run.jsonl",
)
@options.model()
@options.res("256")
@click.option(
    "--batch",
    type=options.BatchList(),
    metavar="N[,N…]",
    help="Images a step; max finds the largest that fits [default: 1 on a CPU, 32 on a GPU].",
)
@options.backend()
@options.precision()
@options.device()
@click.option("--threads", type=int, help="CPU threads [default: all physical cores].")
@click.option(
    "--weights",
    help="A .pt or .safetensors file, hf:owner/repo/file[@revision], official or shipped [default: random].",
)
@click.option(
    "--mode",
    type=options.CommaList(),
    default="forward",
    show_default=True,
    metavar="M[,M…]",
    help="forward, or train: forward, backward and AdamW, with train+ema and train+checkpointing too.",
)
@click.option(
    "--sampling",
    metavar="PLAN",
    help="Time whole images instead: steps=250,cfg=1.5,decode=yes, with sampler=NAME and vae=PATH where wanted.",
)
@click.option("--compare-with", metavar="B|ID", help="A backend or a model, timed in turns with each case.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append results here. A case that the file holds, failed or not, is not measured again. The sweep is "
    "written beside it.",
)
@click.option(
    "--sweep",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=sweep.read,
    help="Take options from this TOML file; those given here go before.",
)
@click.option(
    "--cap",
    type=options.Duration(),
    help="Stop timing a case after this long, however wide its interval [default: 20s on a CPU, 30s on a GPU].",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Fresh processes for each case; 3 for a number that is to be published.",
)
@click.option("--budget", type=options.Duration(), help="Of the whole run, such as 30m; wide intervals get most of it.")
@click.option("--timeout", type=options.Duration(), default="1h", show_default=True, help="End a case after this long.")
@click.option(
    "--price", type=click.FloatRange(min=0), help="Of an hour of this machine; the plan then says what each case costs."
)
@click.option("--dry-run", is_flag=True, help="Print the plan, with the memory and time each case will need, and stop.")
@options.form()
@click.pass_context
def command(
    ctx: click.Context,
    model: list[str],
    res: list[int],
    batch: list[Any] | None,
    backend: list[str],
    precision: list[str],
    device: list[str] | None,
    threads: int | None,
    weights: str | None,
    mode: list[str],
    sampling: str | None,
    compare_with: str | None,
    out: Path | None,
    cap: float | None,
    processes: int,
    budget: float | None,
    timeout: float,
    price: float | None,
    dry_run: bool,
    form: str,
) -> int:
    """Measure how many images/s a backbone computes, one forward pass an image, and set it beside its MACs.

    Every axis takes a list, and the cases are their product. Each case runs in a process of its own and is proved
    correct before it is timed; its number carries a verdict, VALID, SUSPECT or INVALID, with the reasons. A case
    that is named twice is measured twice, in turns: an A/A comparison.
    """
    from ..errors import UsageError
    from ..run import auto, plan, runner

    request = plan.Request(
        model=model,
        res=res,
        batch=batch,
        backend=backend,
        precision=precision,
        device=device or [runner.default_device()],
        threads=threads,
        weights=weights,
        mode=mode,
    )
    if sampling:
        refused = {"--compare-with": compare_with, "--budget": budget, "--price": price, "--processes": processes - 1}
        if given := [option for option, value in refused.items() if value]:
            raise UsageError(f"{given[0]} does not go with --sampling yet")
        cases = runner.with_threads(plan.plan(request, runner.largest_batch))
        from .sampling import measure

        return measure(sampling, cases, out, cap, timeout, dry_run, form)
    held = runner.held_rows(out)
    cases = runner.with_threads(plan.plan(request, runner.largest_batch))
    cases = [auto.resolved(case, held.values()) if case.backend == auto.AUTO else case for case in cases]
    bundles = plan.bundles(cases, compare_with)
    planned = _plan([case for bundle in bundles for case in bundle if case.id not in held], price)
    summary = _summary(planned, sum(map(len, bundles)) - len(planned), budget, price)
    if dry_run:
        options.show(planned, PLAN_KEYS, form, [summary])
        return 0
    click.echo(summary, err=True)
    if out:
        sweep.write(out.with_name(out.name + ".toml"), ctx, device=list(request.device))

    rows: list[dict[str, Any]] = []
    interrupted, stopped = False, None
    with _Progress(planned) as progress:
        rules = {} if cap is None else {"cap_s": cap, "min_s": min(3.0, cap)}
        try:
            settings = runner.Settings(rules, timeout, budget, processes)
            for row in runner.run(bundles, out, progress.update, settings):
                rows.append(row)
                progress.finished(row)
        except KeyboardInterrupt:
            interrupted = True
        except UsageError as error:  # such as a full disk: what is measured is shown all the same
            stopped = error
    notes = NOTES if any(row["status"] == "ok" for row in rows) else ()
    if rows or not stopped:
        options.show(rows, KEYS, form, [*notes, *_tells(rows), *_reasons(rows)])
    if stopped:
        raise stopped
    return INTERRUPTED if interrupted else _exit_code(rows)


def _plan(cases: list[Case], price: float | None) -> list[dict[str, Any]]:
    """What each case will need, or why it will be skipped."""
    from ..measure.estimate import estimate, quick_rates
    from ..run.runner import unsupported

    rows = []
    for case in cases:
        row = {"case": case.id, **asdict(case), "skipped": unsupported(case)}
        if not row["skipped"]:
            row |= asdict(estimate(case, quick_rates(case.device)))
            row["cost"] = None if price is None else price * row["total_s"] / 3600
        rows.append(row)
    return rows


def _summary(planned: list[dict[str, Any]], held: int, budget: float | None, price: float | None) -> str:
    measured = [row for row in planned if not row["skipped"]]
    seconds = min(sum(row["total_s"] for row in measured), budget or float("inf"))
    parts = [f"{len(measured)} case{'s' if len(measured) != 1 else ''} to measure"]
    parts += [f"{len(planned) - len(measured)} to skip"] if len(measured) < len(planned) else []
    parts += [f"{held} already in the file"] if held else []
    needs = [f"about {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'}"] if measured else []
    needs += [f"{max(row['needed_bytes'] for row in measured) / 2**30:.1f} GiB"] if measured else []
    needs += [f"at a cost of {price * seconds / 3600:.2f}"] if measured and price is not None else []
    return "; ".join(filter(None, [", ".join(parts), ", ".join(needs)])) + "."


def _tells(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What comparisons came to, and the smallest difference that this run may claim."""
    for row in rows:
        if row["ratio"] is not None:
            yield (
                f"{row['case']} is {row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}] times as fast "
                f"as {row['compared_with']}: {row['difference']}"
            )
    least = [row["smallest_difference"] for row in rows if row["smallest_difference"]]
    if least and len(rows) > 1:
        yield f"Differences under {max(least):.1%} are not told apart here (A/A comparison of this run)."


def _reasons(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if row["reason"]:
            yield f"{row['case']}: {row['verdict'] or row['status']}, {row['reason']}"


def _exit_code(rows: list[dict[str, Any]]) -> int:
    if any(row["verdict"] == "INVALID" for row in rows):
        return 4
    return 0 if any(row["status"] == "ok" for row in rows) else 3


class _Progress:
    """A bar with the time left on a terminal, a line a case elsewhere; both on stderr."""

    def __init__(self, planned: list[dict[str, Any]]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.expected = {row["case"]: row.get("total_s") or 1.0 for row in planned}
        self.spent = 0.0
        self.started = time.monotonic()
        self.count = 0
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=max(1.0, sum(self.expected.values())), left="")

    def __enter__(self) -> "_Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, case: Case, what: str, done: float) -> None:
        """Called while a case runs. Time left: what the plan expects of the rest, scaled by how wrong it was so far."""
        share = {"loading": 0.1, "reference": 0.2, "proving": 0.3}.get(what, 0.4 + 0.6 * done)
        now = self.spent + share * self.expected.get(case.id, 1.0)
        left = sum(self.expected.values()) - now
        pace = (time.monotonic() - self.started) / now if now > 5 else 1.0
        self.bar.update(
            self.task, completed=now, description=f"{case.id}: {what}", left=f"{max(0.0, left * pace):.0f} s left"
        )

    def finished(self, row: dict[str, Any]) -> None:
        """Called with each finished row, those of the file included."""
        self.spent += self.expected.get(row["case"], 0.0)
        self.count += 1
        if not sys.stderr.isatty():
            speed = "" if row["images_per_s"] is None else f"{row['images_per_s']:.4g} images/s "
            click.echo(f"[{self.count}] {row['case']}: {speed}{row['verdict'] or row['status']}", err=True)
