"""The ``hybridnet`` command: doctor, stats, lab, demo.

Each subcommand is a module with ``SUMMARY``, ``DESCRIPTION``, ``EXAMPLES``, ``configure(parser)``
and ``run(args) -> exit status``; what is slow to import is imported inside ``run``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hybridnet.cli import demo, doctor, lab, stats
from hybridnet.errors import HybridnetError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
_COMMANDS = {"doctor": doctor, "stats": stats, "lab": lab, "demo": demo}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hybridnet",
        description="A hybrid networking stack for asyncio: AF_XDP fast path, kernel for the rest.",
        epilog="first steps: 'hybridnet doctor' says what this machine can do, "
        "'hybridnet demo' shows it.",
    )
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status; errors become one sentence on stderr."""
    args = _parser().parse_args(argv)
    try:
        status: int = _COMMANDS[args.subcommand].run(args)
        return status
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HybridnetError as error:
        print(f"hybridnet {args.subcommand}: {error.strerror}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"hybridnet {args.subcommand}: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ValueError) else 1
