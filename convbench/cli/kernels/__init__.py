"""``convbench kernels``: a group of commands on the fused kernels."""

import click

from .bench_kernels import bench_kernels
from .check_kernels import check_kernels
from .compile_kernels import compile_kernels
from .list_kernels import list_kernels
from .product_kernels import product_kernels


class ListByDefault(click.Group):
    """A group that runs ``list`` where no command is named."""

    def with_default(self, args: list[str]) -> list[str]:
        """Put ``list`` before arguments that neither name a command nor ask for help."""
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            return ["list", *args]
        return args

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            raise click.UsageError(f"unknown command '{args[0]}' of kernels; choose from {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.with_default(args))


@click.group(
    "kernels",
    cls=ListByDefault,
    commands=[list_kernels, check_kernels, bench_kernels, product_kernels, compile_kernels],
    short_help="list, check, time and compile the fused kernels",
    epilog="\b\nExamples:\n  convbench kernels\n  convbench kernels check --precision bf16",
    subcommand_metavar="[COMMAND] [ARGS]...",
)
def command() -> None:
    """Fused Triton kernels: list, check, time and compile them. Without a command, list them.

    On a CPU, the operations run their PyTorch reference implementations. No command loads weights or builds a network.
    """
