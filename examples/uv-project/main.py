import sys

import click
from rich.console import Console
from rich.table import Table

table = Table("package", "from")
for module in (click, sys.modules["rich"]):
    table.add_row(module.__name__, module.__file__)
Console(width=120).print(table)
