"""What `scripts/python/circuitscope.py` promises, on the built-in model. Run by tests/python.rs, and by hand with the variable
CIRCUITSCOPE naming the program. Without NumPy what needs it is left out, and said."""

import os
import sys
import tempfile
import unittest
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "python"))
import circuitscope as cs  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None

PROMPT = "The President of the United"


class Python(unittest.TestCase):
    def test_documents_are_dicts(self):
        doc = cs.run(prompt=PROMPT, top=3)
        self.assertEqual([len(doc["next"]), doc["next"][0]["text"]], [3, " States"])
        self.assertEqual(doc["tokens"][4]["text"], " United")
        # Numbers in lists, flags that are off, what is not given.
        again = cs.run(ids=[t["id"] for t in doc["tokens"]], bos=False, model=None, top=3)
        self.assertEqual(again["next"], doc["next"])
        self.assertEqual(cs.run(ids=(5, 6))["tokens"][1]["id"], 6)
        self.assertEqual(cs.run(prompt="- a dash")["tokens"][0]["text"], "-")

    def test_a_plan_takes_a_word_or_a_command(self):
        self.assertGreater(cs.plan("lens", prompt=PROMPT)["needs_bytes"], 0)
        self.assertEqual(cs.plan("heads", "--over", "prose")["command"], "heads --over prose")

    def test_options_are_keywords(self):
        doc = cs.ablate(prompt=PROMPT, answer=" States", site="z", with_="mean")
        self.assertEqual(doc["axes"], ["layer", "head"])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "sites.safetensors")
            doc = cs.run(prompt=PROMPT, capture=["hook_embed", "blocks.*.hook_resid_post"], output=path)
            self.assertEqual(len(doc["captured"]), 3)
            graph, small = os.path.join(folder, "graph.json"), os.path.join(folder, "small.json")
            whole = cs.trace(prompt=PROMPT, target=" States", output=graph)
            self.assertIn("replacement_score", str(whole))
            cs.graph.prune(graph, node_threshold=0.3, output=small)
            self.assertLess(os.path.getsize(small), os.path.getsize(graph))
            session = os.path.join(folder, "new.scope")
            # A command that prints no document gives its text.
            self.assertEqual(cs.session.new(prompt=PROMPT, output=session), session)
            self.assertEqual(cs.session.show(session)["desk"]["prompt"], PROMPT)

    def test_dicts_go_as_files(self):
        stack = {"base": "clean", "edits": [{"site": "blocks.1.attn.hook_z", "head": 3, "action": "zero"}]}
        plain, edited = cs.generate(prompt=PROMPT, max=1), cs.generate(prompt=PROMPT, max=1, edits=stack)
        self.assertNotEqual(plain, edited)
        with self.assertRaisesRegex(cs.Error, "chat template"):
            cs.run(chat=[{"role": "user", "content": "Hello"}])

    def test_errors_are_one_exception(self):
        with self.assertRaises(cs.Error) as raised:
            cs.dla(prompt=PROMPT, answer=" United States")
        self.assertIn("is not one token", str(raised.exception))
        self.assertEqual(raised.exception.status, 2)
        with self.assertRaisesRegex(cs.Error, "no subcommand fly; dir"):
            cs.fly()
        with self.assertRaisesRegex(cs.Error, "--deeper"):
            cs.run(prompt=PROMPT, deeper=1)
        with self.assertRaises(cs.Error):
            cs.graph(1)
        with self.assertRaises(AttributeError):
            cs.__path__
        before, os.environ["CIRCUITSCOPE"] = os.environ["CIRCUITSCOPE"], "/no/such/program"
        try:
            with self.assertRaisesRegex(cs.Error, "/no/such/program cannot be started"):
                cs.models()
        finally:
            os.environ["CIRCUITSCOPE"] = before

    def test_commands_can_be_looked_through(self):
        self.assertTrue({"run", "lens", "patch", "graph"} <= set(dir(cs)))
        self.assertTrue({"prune", "info"} <= set(dir(cs.graph)))
        self.assertIn("--answer", cs.lens.__doc__)
        self.assertEqual(repr(cs.graph.prune), "<circuitscope graph prune>")

    def test_warnings_are_warnings(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            doc = cs.run(prompt=PROMPT)
            self.assertEqual([str(w.message) for w in caught], doc["warnings"])

    def test_a_report_is_shown_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "report.html")
            with open(path, "w", encoding="utf-8") as file:
                file.write("<p title='\"'>a & b</p>")
            shown = cs.show(path, height=300)._repr_html_()
        self.assertIn('srcdoc="&lt;p title=&#x27;&quot;&#x27;&gt;a &amp; b&lt;/p&gt;"', shown)
        self.assertIn("height: 300px", shown)

    @unittest.skipIf(numpy is None, "NumPy is not here")
    def test_axes_may_be_named_for_each_thing(self):
        dla = cs.dla(prompt=PROMPT, answer=" States", arrays=True)
        for name, axes in dla["axes"].items():
            self.assertEqual(dla["parts"][name].ndim, len(axes), name)

    @unittest.skipIf(numpy is None, "NumPy is not here")
    def test_arrays_have_the_axes_of_the_document(self):
        doc = cs.lens(prompt=PROMPT, pos="all", answer=" States", arrays=True)
        self.assertEqual(doc["axes"], ["layer", "pos"])
        self.assertEqual(doc["answer_rank"].shape, (2, 5))
        self.assertEqual(doc["answer_rank"][1, 4], 0)
        self.assertEqual(doc["top1_text"][1][4], " States")
        heads = cs.heads(arrays=True)["scores"]["induction"]
        self.assertEqual([heads["axes"], heads["values"].shape], [["layer", "head"], (2, 4)])
        self.assertEqual(heads["values"].dtype.kind, "f")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "sites.safetensors")
            cs.run(prompt=PROMPT, capture="blocks.1.attn.hook_pattern", output=path)
            pattern = cs.tensors(path)["blocks.1.attn.hook_pattern"]
        self.assertEqual(pattern.shape, (4, 5, 5))
        self.assertTrue(numpy.allclose(pattern.sum(-1), 1))


if __name__ == "__main__":
    unittest.main()
