"""What a binary's help says of its commands and flags."""

import os
import re
import subprocess
from dataclasses import dataclass


def binaries(folder):
    """The paths of the three binaries in `folder`."""
    names = ["wirestate-tokio", "wirestate-smol", "wirestate-std"]
    return [os.path.join(os.path.abspath(folder), name) for name in names]


def output(binary, *words):
    """Runs a command to its end. Returns what it writes."""
    return subprocess.run([binary, *words], check=True, capture_output=True, text=True).stdout


def commands(binary):
    """The names of all commands but `help`."""
    section = re.search(r"^Commands:\n((?:  .*\n)+)", output(binary, "-h"), re.M)[1]
    names = re.findall(r"^  ([a-z-]+)", section, re.M)
    assert len(names) > 10 and "help" in names, names
    return [name for name in names if name != "help"]


@dataclass
class Flag:
    """A flag, with the name of its value, its possible values, and its environment variable."""

    name: str
    value_name: str
    values: list
    variable: str


def flags(binary, *command):
    """The flags of a command, or of the program."""
    found = []
    pattern = r"^  (?:-\w, |    )(--[a-z-]+)(?: <(.*?)>)?(.*\n(?: {8,}.*\n)*)"
    for name, value_name, text in re.findall(pattern, output(binary, *command, "-h"), re.M):
        values = re.search(r"\[possible values: ([^]]*)\]", text)
        values = re.findall(r"[^\s,]+", values[1]) if values else []
        variable = re.search(r"\[env: (\w+)=", text)
        found.append(Flag(name, value_name, values, variable[1] if variable else ""))
    return found
