"""``convbench throughput``: the main job."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..schema import CaseRow
from . import INTERRUPTED, options, sweep, throughput_notes
from .progress import CaseProgress

if TYPE_CHECKING:
    from ..run.cases import Planned, Settings

CASE_KEYS = ("model", "res", "batch", "backend", "precision", "device", "threads", "world", "on", "repeat", "mode")
PASS_KEYS = (
    *CASE_KEYS,
    *(
        "params",
        "macs",
        "winograd_macs",
        "executed_macs",
        "images_per_s",
        "interval",
        "latency_s_p50",
        "build_s",
        "prepare_s",
    ),
    *("limit_fraction", "efficiency", "ratio", "difference", "status", "verdict"),
)
SAMPLING_KEYS = (
    *("model", "res", "batch", "backend", "precision", "device", "threads", "sampler", "steps", "cfg_scale"),
    *("finished_images_per_s", "finished_interval", "ratio", "difference", "backbone_share", "guidance_share"),
    *("sampler_share", "decoder_share", "unattributed_share", "decoder", "decoder_macs", "decoder_images_per_s"),
    *("status", "verdict"),
)
PLAN_KEYS = (*CASE_KEYS, "sampling", "needed_bytes", "total_s", "cost", "skipped")
PASS_NOTE = (
    "MACs: per image; the papers print this number as FLOPs. of limit: share of the images/s that the rates measured "
    "on this machine in the same minute would allow."
)
SAMPLING_NOTE = (
    "finished images/s: through all steps, with guidance, and decoded where there is a share for it; not comparable "
    "with the images/s of forward passes."
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
    help="Images per step; max finds the largest batch that fits [default: 1 on a CPU, 32 on a GPU].",
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
    help="forward, or train (forward, backward and AdamW), which +ema and +checkpointing extend.",
)
@click.option(
    "--sampling",
    metavar="PLAN",
    help="Time complete sampling, e.g. steps=250,cfg=1.5,decode=yes; sampler=NAME and vae=PATH are optional.",
)
@click.option(
    "--compare-with",
    metavar="B|ID",
    help="Time a backend or a model interleaved with each case and report the case's ratio to it.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append results to this file; cases already in it, failed or not, are not measured again. The run's options "
    "are written to FILE.toml.",
)
@click.option(
    "--store",
    metavar="STORE",
    help="Push each row to this store too, once it is in --out; a store that fails stops nothing (`convbench store`).",
)
@click.option(
    "--sweep",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=sweep.read,
    help="Read options from this TOML file; command-line options take precedence.",
)
@click.option(
    "--cap",
    type=options.Duration(),
    help="Stop timing a case after this time, even if its interval is still too wide [default: 20s on a CPU, 30s on a "
    "GPU].",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of fresh processes per case; use 3 for numbers to be published.",
)
@click.option(
    "--budget",
    type=options.Duration(),
    help="Time limit for the whole run, e.g. 30m; cases with wide intervals get most of it.",
)
@click.option(
    "--world",
    type=click.IntRange(1, 1024),
    metavar="N",
    default=1,
    show_default=True,
    help="Run each case in this many processes at once (torchrun), each on its own GPU or group of cores: images/s of "
    "all together, and the efficiency over one alone.",
)
@options.launcher()
@click.option("--timeout", type=options.Duration(), default="1h", show_default=True, help="Time limit for one case.")
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    help="Price of this machine per hour; adds the cost of each case to the plan.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the plan with the estimated memory and time of each case, and exit."
)
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
    store: str | None,
    cap: float | None,
    processes: int,
    budget: float | None,
    world: int,
    launcher: str | None,
    on: list[str] | None,
    timeout: float,
    price: float | None,
    dry_run: bool,
    form: str,
) -> int:
    """Measure the images/s of backbones, at one forward pass per image, and show it with their MACs.

    Options that take a list are axes: every combination of their values is one case. Each case runs in its own process
    and is compared with fp32 PyTorch before it is timed. Each result carries a verdict (VALID, NOISY, SUSPECT or
    INVALID) with the reasons. A case that is given twice is measured twice, interleaved, as an A/A comparison.
    """
    from ..environment import default_device
    from ..run.cases import Settings, planned
    from ..run.jobs import Limits
    from ..run.plan import Request

    request = Request(
        model=model,
        res=res,
        batch=batch,
        backend=backend,
        precision=precision,
        device=device or [default_device()],
        threads=threads,
        weights=weights,
        mode=mode,
        sampling=sampling,
        compare_with=compare_with,
        on=on,
        world=world,
    )
    if store and not out:
        raise click.UsageError("--store needs --out: rows are written there first")
    limits = Limits(cap, timeout, budget)
    plan = planned(request, out, limits, launcher)
    rows = _planned_rows(plan, cap, price, elsewhere=launcher not in (None, "local"))
    summary = _summary(rows, len(plan.cases) - len(rows), budget, price)
    if dry_run:
        keys = [key for key in PLAN_KEYS if key in CASE_KEYS or any(row.get(key) is not None for row in rows)]
        options.show(rows, keys, form, [summary])
        return 0
    click.echo(summary, err=True)
    if out:
        sweep.write(out.with_name(out.name + ".toml"), ctx, device=list(request.device))
    expected = {row["case"]: row.get("total_s") or 1.0 for row in rows}
    settings = Settings(limits, processes, launcher=launcher)
    if store is None:
        return _measure(plan, settings, expected, form, bool(sampling))
    from ..store.mirror import Mirror

    mirror = Mirror(plan.results, store)
    code = _measure(plan, settings, expected, form, bool(sampling))
    if left := mirror.finish():
        options.say(left, err=True)
    return code


def _measure(plan: "Planned", settings: "Settings", expected: dict[str, float], form: str, sampling: bool) -> int:
    """Measure the plan and show its rows, also after Ctrl-C and on a full disk. Returns the exit code."""
    from dataclasses import replace

    from ..errors import UsageError
    from ..run.cases import measured

    rows: list[CaseRow] = []
    began = time.monotonic()
    interrupted, stopped = False, None
    with CaseProgress(expected, len(plan.cases)) as progress:
        settings = replace(settings, say=progress.tell)
        try:
            for row in measured(plan, settings, progress.update):
                rows.append(row)
                progress.finished(row.case, _result(row, sampling))
        except KeyboardInterrupt:
            interrupted = True
        except UsageError as error:  # such as a full disk: what is measured is shown all the same
            stopped = error
    places = {case.id: place for place, case in enumerate(plan.cases)}
    rows.sort(key=lambda row: places[row.case])  # a launcher gives them as they come
    if rows or not stopped:
        keys, note = (SAMPLING_KEYS, SAMPLING_NOTE) if sampling else (PASS_KEYS, PASS_NOTE)
        notes = [note] if any(row.status == "ok" for row in rows) else []
        shown = [row.to_json() for row in rows]
        for line in throughput_notes.above(rows, time.monotonic() - began):
            click.echo(line, err=True)
        options.show(shown, keys, form, [*notes, *throughput_notes.below(rows)])
    if stopped:
        raise stopped
    return INTERRUPTED if interrupted else _exit_code(rows)


def _planned_rows(
    plan: "Planned", cap: float | None, price: float | None, elsewhere: bool = False
) -> list[dict[str, Any]]:
    """The cases to measure, each with what it will need, or why it will be skipped.

    Args:
        elsewhere: they run on other machines: what cannot run here may run there, and what it needs is not known.
    """
    from dataclasses import asdict

    from ..run.cases import estimates

    rows = []
    needs = estimates(plan.missing, cap)
    for case in plan.missing:
        row = {"case": case.id, **asdict(case), "skipped": None}
        need = needs[case.id]
        if isinstance(need, str):
            row["skipped"] = None if elsewhere else need
        else:
            row |= asdict(need) | {"total_s": need.total_s}
            row["cost"] = None if price is None else price * need.total_s / 3600
        rows.append(row)
    return rows


def _summary(planned: Sequence[dict[str, Any]], held: int, budget: float | None, price: float | None) -> str:
    measured = [row for row in planned if not row["skipped"]]
    known = [row for row in measured if row.get("total_s") is not None]
    seconds = min(sum(row["total_s"] for row in known), budget or float("inf"))
    parts = [f"{len(measured)} case{'s' if len(measured) != 1 else ''} to measure"]
    parts += [f"{len(planned) - len(measured)} to skip"] if len(measured) < len(planned) else []
    parts += [f"{held} already in the file"] if held else []
    needs = [f"about {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'}"] if known else []
    needs += [f"{max(row['needed_bytes'] for row in known) / 2**30:.1f} GiB"] if known else []
    needs += [f"at a cost of {price * seconds / 3600:.2f}"] if known and price is not None else []
    return "; ".join(filter(None, [", ".join(parts), ", ".join(needs)])) + "."


def _result(row: CaseRow, sampling: bool) -> str:
    unit = "finished images/s" if sampling else "images/s"
    speed = "" if row.speed is None else f"{row.speed:.4g} {unit} "
    return f"{speed}{row.verdict or row.status}"


def _exit_code(rows: Sequence[CaseRow]) -> int:
    if any(row.verdict == "INVALID" for row in rows):
        return 4
    return 0 if any(row.status == "ok" for row in rows) else 3
