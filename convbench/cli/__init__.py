"""The command line. One module a command, loaded when it is called; this one is the table of contents."""

import errno
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from .. import __version__
from ..errors import ConvbenchError, printable

COMMANDS = {  # name -> what it is for; the module of that name holds `command`
    "models": "list every known model: size, source, licence, and whether it runs here",
    "flops": "count parameters, MACs, FLOPs and bytes, by several conventions",
    "throughput": "measure images/s: the FLOPs and throughput table, for one model or a sweep",
    "sample": "sample images from a trained backbone (digits by default, no download)",
    "pareto": "the fastest ways to sample at the same quality: caches, fewer steps, int8",
    "kernels": "list, check, compile and time the fused Triton kernels",
    "export": "build an ONNX, TensorRT, OpenVINO or AOTInductor artefact",
    "verify": "check an artefact against fp32 PyTorch; name the first layer that differs",
    "serve": "serve an artefact over HTTP (KServe v2), with dynamic batching",
    "deploy": "write a model repository for Triton Inference Server, or Kubernetes manifests",
    "load": "send requests to a server and report its latency and throughput",
    "report": "make tables, plots or a page from stored runs; print the papers' tables with our numbers",
    "verify-report": "recompute every cell of a `report --html` page from its samples",
    "compare": "compare two stored runs case by case; fail a CI job on a regression",
    "recommend": "the fastest model and backend for each machine, from stored rows",
    "plan-capacity": "devices, cost and latency for a demand, from stored rows",
    "history": "steps in the history of a model, and what changed in the environment with each",
    "store": "keep the rows of many runs in one place: DuckDB, Parquet, Postgres",
    "audit": "check the papers' printed throughputs against GPU peaks and our own counts",
    "replay": "time a paper's protocol and ours interleaved, one setting at a time",
    "card": "list or check protocol cards: how published throughputs were measured",
    "doctor": "show what works here, and how to fix the rest",
    "env": "show this machine: devices, versions, measured peaks",
}
INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class Contents(click.Group):
    """Lists its commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        loaded: click.Command = import_module(f".{name.replace('-', '_')}", __name__).command
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"unknown command '{args[0]}'; choose from {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Contents,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n  convbench throughput --model dic_xl --res 512\n"
    "  convbench flops --model dic_xl,dit_xl_2 --res 256",
)
@click.version_option(__version__, prog_name="convbench")
def contents() -> None:
    """Count, measure and deploy convolutional diffusion backbones, alongside the transformers they replace.

    Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 a failed check, 2 a usage error,
    3 nothing could be measured, 4 measured but not valid, 130 interrupted.
    """


def main(args: list[str] | None = None) -> None:
    """Run a command line and exit with its code. Errors that a user can fix are one line each."""
    sys.exit(_run(args))


def _run(args: list[str] | None) -> int:
    if not _streams_are_open():
        return _fail("stdout is closed: redirect it to a file, or to /dev/null", 2)
    try:
        code: Any = contents.main(args, prog_name="convbench", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except ConvbenchError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return INTERRUPTED
    except SystemExit:  # what click makes of a closed pipe: the reader, such as `head`, has seen enough
        return 0
    except BrokenPipeError:  # the same, at the last flush
        _give_up_stdout()
        return 0
    except OSError as error:  # a disk or a device, wherever it stops
        return _fail(_words(error), 2)
    except MemoryError:
        return _fail("not enough memory", 2)


def _streams_are_open() -> bool:
    """Open /dev/null for each standard stream that was closed, and say whether stdout was not.

    Otherwise a result file would get the number of the stream, and what libraries write to stderr would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    return sys.stdout is not None


def _words(error: OSError) -> str:
    """Message of a system error and the file it is about."""
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    # Without a name it was a stream that could not be written: stdout, where it leads to a file or a device.
    return f"cannot write: {error.strerror}" if error.errno in FULL else error.strerror or str(error)


def _give_up_stdout() -> None:
    """Let what is still buffered go nowhere, or Python would fail once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # stderr is full or closed: the exit code is all that can be said
        click.echo(f"convbench: {printable(' '.join(message.split()))}", err=True)
    return code
