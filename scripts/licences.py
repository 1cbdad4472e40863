"""Prints the licences of the crates that are in the program: each text once, below the crates that it is of. Read from
cargo's own metadata and from the crates' sources, so that no tool has to be installed. Used by scripts/package."""

import json
import re
import subprocess
import sys
from pathlib import Path

target = sys.argv[1] if len(sys.argv) > 1 else None
command = ["cargo", "metadata", "--format-version", "1", "--locked"]
metadata = json.loads(subprocess.run(command + (["--filter-platform", target] if target else []),
                                     check=True, stdout=subprocess.PIPE).stdout)
packages = {p["id"]: p for p in metadata["packages"]}
nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}

# What is linked: the root's dependencies and theirs, without those of tests and of build scripts.
root = metadata["resolve"]["root"]
linked, todo = set(), [root]
while todo:
    one = todo.pop()
    for dep in nodes[one]["deps"]:
        if dep["pkg"] not in linked and any(k["kind"] is None for k in dep["dep_kinds"]):
            linked.add(dep["pkg"])
            todo.append(dep["pkg"])

FILES = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
texts, without = {}, []
for p in sorted((packages[i] for i in linked), key=lambda p: (p["name"], p["version"])):
    folder = Path(p["manifest_path"]).parent
    found = [f for f in sorted(folder.iterdir()) if f.is_file() and FILES.match(f.name) and f.suffix != ".rs"]
    line = f"{p['name']} {p['version']} ({p['license'] or 'see the text'})"
    for file in found:
        text = file.read_text(encoding="utf-8", errors="replace").strip().replace("\r\n", "\n")
        key = " ".join(text.split())
        texts.setdefault(key, (text, []))[1].append(line)
    if not found:
        authors = ", ".join(p["authors"]) or f"the authors of {p['name']}"
        without.append(f"{line}, Copyright {authors}, {p['repository'] or 'https://crates.io/crates/' + p['name']}")

print(f"circuitscope holds {len(linked)} crates of others. Their licences, each text once:\n")
for text, of in texts.values():
    print("=" * 100 + "\n" + "\n".join(of) + "\n" + "-" * 100 + "\n" + text + "\n")
if without:
    print("=" * 100 + "\nThese ship no text of their licence; it is the standard one of that name, MIT's being below:\n"
          + "\n".join(without))
    own = (Path(packages[root]["manifest_path"]).parent / "LICENSE-MIT").read_text(encoding="utf-8")
    print("-" * 100 + "\n" + own[own.index("Permission is hereby granted"):].strip())
