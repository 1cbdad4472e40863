"""Executes a notebook that uses the Python module, as a reader would, and looks at what its cells show. Run by
scripts/check-python."""

import os
import tempfile

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

CELLS = [
    "import circuitscope as cs\nprompt = 'The President of the United'",
    "cs.run(prompt=prompt, top=1)['next'][0]['text']",
    "lens = cs.lens(prompt=prompt, pos='all', answer=' States', arrays=True)\nlens['answer_rank'][-1]",
    "cs.heads(arrays=True)['scores']['induction']['values'].argmax()",
    "cs.session.new(prompt=prompt, answer=' States', output='mine.scope')",
    "cs.session.report('mine.scope', view='lens', output='report.html')",
    "cs.show('report.html', height=500)",
    "cs.show('report.html').text.count('<svg') > 0",
]


def shown(cell):
    """What a cell shows: its last output, by kind."""
    return cell.outputs[-1]["data"] if cell.outputs else {}


with tempfile.TemporaryDirectory() as folder:
    notebook = new_notebook(cells=[new_code_cell(c) for c in CELLS])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [shown(cell) for cell in notebook.cells]
    assert outputs[1]["text/plain"] == "' States'", outputs[1]
    assert outputs[2]["text/plain"].startswith("array([") and outputs[2]["text/plain"].endswith(" 0])"), outputs[2]
    # The built-in model's induction head, 1.3, among two layers of four.
    assert outputs[3]["text/plain"].strip("()npit.64") == "7", outputs[3]
    assert outputs[6]["text/html"].startswith('<iframe srcdoc="&lt;!doctype html'), outputs[6]["text/html"][:80]
    assert outputs[7]["text/plain"] == "True", outputs[7]
    nbformat.validate(notebook)
    # The program's sentence is what a reader sees of an error.
    wrong = new_notebook(cells=[new_code_cell(CELLS[0]), new_code_cell("cs.dla(prompt=prompt, answer=' two words')")])
    try:
        NotebookClient(wrong, timeout=300, kernel_name="python3").execute()
        raise SystemExit("an error was passed over")
    except CellExecutionError as error:
        assert error.ename == "Error" and "is not one token" in error.evalue, error
print(f"{len(CELLS) + 2} cells ran as they should")
