"""Tasks of documents: passages, the template, filters, a teacher on the loopback, the cache."""

import json
import sys
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
from fastapi import FastAPI, Response

from agentrl import hub
from agentrl.agents.judges.gold import check_gold
from agentrl.agents.judges.text import exact
from agentrl.callables import load_named
from agentrl.config import DataConfig
from agentrl.tasks import __main__ as command
from agentrl.tasks.questions import filters, teacher, template
from agentrl.tasks.questions.passages import passages_of
from agentrl.tasks.splits import read_tasks
from tests.support.loopback import served

DOCUMENT = """# Boats

A boat of the harbour carries at most 12 people, whatever they weigh together.
It sinks with more of them, as everybody knows since 1912.

## Sizes

| boat | length | what it is for |
|---|---|---|
| `skiff` | 4 m | one who fishes alone near the shore |
| `gig` | 10 m | |

- `bow`: the part of a boat that comes first

```python
# no heading
class Boat:
    oars: int = 6
    sails = count(oars)
```
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


def read(folder, **options):
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return read_tasks(load_named(f"documents:{folder}?{query}", "agentrl.tasks"), DataConfig())


def report(folder) -> str:
    """That of the tasks which were made last."""
    files = sorted(folder.parent.glob("cache/*/*/*.json"), key=lambda file: -file.stat().st_mtime)
    made = [json.loads(file.read_text()) for file in files]
    return next(one["report"] for one in made if isinstance(one, dict))


def task(question, answer="a boat", passage="It is a boat, of 3 or 4 m.") -> dict:
    return {"question": question, "answer": answer, "passage": passage}


@pytest.mark.parametrize("size", [40, 60, 200, 10_000])
def test_passages_are_bounded_and_nothing_is_lost(size):
    passages = [*passages_of("b.md", DOCUMENT, size)]
    assert max(len(p["passage"]) for p in passages) <= size
    assert [*dict.fromkeys(p["heading"] for p in passages)] == ["Boats", "Sizes"]
    wanted = DOCUMENT.replace("# Boats", "").replace("## Sizes", "")
    found = iter("".join(p["passage"] for p in passages))
    # In order; a table's head comes again in each part of it.
    assert all(sign in found for sign in "".join(wanted.split()))
    tables = [p["passage"] for p in passages if "gig" in p["passage"]]
    assert size < 200 or all(table.startswith("| boat | length |") for table in tables)


def test_the_template_asks_of_tables_definitions_listings_and_sentences():
    passages = passages_of("b.md", DOCUMENT, 800)
    asked = sorted(
        (t["kind"], t["answer"], t["heading"]) for p in passages for t in template.ask(p)
    )
    assert asked == [
        ("cell", "10 m", "Sizes"),
        ("cell", "4 m", "Sizes"),
        ("definition", "bow", "Sizes"),
        # Of the two sentences, the one that is whole without the other.
        ("gap", "12", "Boats"),
        ("row", "skiff", "Sizes"),
        # Not the number of sails, which is computed.
        ("value", "6", "Sizes"),
    ]


@pytest.mark.parametrize(
    ("sentence", "answers"),
    [
        ("The boats of this harbour carry `oars` and a mast.", {"oars"}),
        ("A boat is 4 metres longer than a raft ever was.", {"4"}),
        ("Every boat of the town is moored in Lower Harbour by night.", {"Lower Harbour"}),
        # What could be any of several, leans on another sentence, is none, or is short.
        ("The boats of this harbour carry `oars`, `masts` and `sails`.", set()),
        ("A boat is 4 or 5 metres longer than a raft ever was.", set()),
        ("They carry `oars` and a mast wherever they go.", set()),
        ("The same holds of `oars` wherever it is they go.", set()),
        ("The boats of this harbour carry `oars` and a mast", set()),
        ("The boats carry `oars`.", set()),
    ],
)
def test_a_gap_is_of_a_sentence_that_stands_alone(sentence, answers):
    assert {answer for _, answer, _ in template.of_sentences(sentence)} == answers


@pytest.mark.parametrize(
    ("keeps", "tasks", "expected"),
    [
        (
            filters.are_of_length,
            [
                task("What is it that floats?"),
                task("What is it?"),
                task("what " * 81),
                task("What is it that floats?", ""),
                task("What is it that floats?", "x" * 81),
                task("what " * 80, "x" * 80),
            ],
            [True, False, False, False, False, True],
        ),
        (
            filters.are_answerable,
            [
                task("What is it?", "A BOAT."),
                task("What is it?", "a ship"),
                task("What else is it?", "oat"),
                task("Is it a boat, or what?"),
                task("Of how many m is it?", "3"),
                task("of  how many m, is it", "4"),
                task("Of how many metres is it?", "3"),
                task("What is nothing?", "..."),
            ],
            [False, False, False, False, False, False, True, False],
        ),
        (
            lambda tasks: filters.are_unlike(tasks, similar=1.0),
            [
                task("What is it that floats there?"),
                task("what is it,  that floats `there`?", "A boat"),
                task("What is it that floats here?"),
                task("What is it that floats there?", "3"),
            ],
            [True, False, True, True],
        ),
        (
            lambda tasks: filters.are_unlike(tasks, similar=0.8),
            [
                task("Tom has 3 boats and 4 oars in all; what does he have most of, then?"),
                task("Tom has 3 boats and 4 oars in all; what does he have most of?"),
                # Other numbers are another question.
                task("Tom has 4 boats and 3 oars in all; what does he have most of?"),
                task("Tom has 3 boats and 4 oars in all; what does he have most of?", "3"),
            ],
            [True, False, True, True],
        ),
        (
            lambda tasks: filters.are_few(tasks, most=1),
            [task("One?"), task("Two?"), task("Three?", passage="Another.")],
            [True, False, True],
        ),
    ],
)
def test_what_a_filter_drops_and_what_it_leaves(keeps, tasks, expected):
    assert keeps(tasks) == expected


def test_the_first_answer_alone_is_answerable():
    assert filters.are_answerable([task("What is it?", "A BOAT.")]) == [True]


def many(folder, number=20):
    for n in range(number):
        (folder / f"{n}.md").write_text(
            f"# Boat {n}\n\nThe boat with the number {n}00 carries `load{n}` on each of its ways.\n"
        )


def test_train_and_held_out_share_no_passage(folder, caplog):
    many(folder)
    # The same passage in another document is on the same side.
    (folder / "again.txt").write_text((folder / "3.md").read_text())
    (folder / ".venv").mkdir()
    (folder / ".venv" / "licence.txt").write_text(
        "The boat of others carries `nothing` that is ours."
    )
    train, held_out = read(folder)
    assert (len(train), len(held_out)) == (18, 2)
    assert {t["passage"] for t in train} & {t["passage"] for t in held_out} == set()
    assert {*train[0]} == {"question", "answer", "kind", "document", "heading", "passage", "id"}
    check_gold(exact, train + held_out)
    assert read(folder) == (train, held_out)


def test_an_unchanged_folder_is_not_read_again(folder, monkeypatch):
    many(folder, 3)
    asked, ask = [], template.ask
    monkeypatch.setattr(template, "ask", lambda passage: asked.append(passage) or ask(passage))
    # As two ranks do: one waits for the other.
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(read, [folder, folder])
    assert (len(asked), second == first, read(folder) == first, len(asked)) == (3, True, True, 3)
    (folder / "1.md").write_text("The mast of the boat is as high as the `keel` is long.")
    assert read(folder) != first
    assert len(asked) == 6
    read(folder, size=700)
    assert len(asked) == 9


def test_a_preview_has_the_report(folder, capsys, caplog, monkeypatch):
    many(folder, 2)
    (folder / "2.md").write_text((folder / "1.md").read_text().replace("of its", "of its own"))
    monkeypatch.setattr(sys, "argv", ["tasks", "preview", f"documents:{folder}"])
    command.main()
    lines = caplog.text + capsys.readouterr().out
    assert "docs: 3 files, 3 passages, 3 questions" in lines
    assert "too short or too long: 0 of 3 dropped" in lines
    assert "in both: 0" in lines
    assert report(folder) in lines


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("teacher=http://x/v1", "is not among .* a URL with model=NAME, or a model: a folder"),
        ("teacher=run/step-00040&model=m", "is not among"),
        ("model=m", "model=m is not among"),
        ("wordings=2", "wordings=2 is not among"),
        ("size=0", "size=0 is not among"),
        ("size=many", "size=many is not among"),
        ("sizes=8", "sizes=8 is not among"),
        ("policy=4", "policy=4 is not among"),
        ("", r"no task: give more of .md, .txt, .html, .htm, .pdf, .docx"),
    ],
)
def test_what_cannot_be_is_a_sentence(folder, query, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_tasks(load_named(f"documents:{folder}?{query}", "agentrl.tasks"), DataConfig())


def test_a_reader_that_is_missing_and_a_document_that_breaks_it(folder, monkeypatch):
    (folder / "a.html").write_text("The boat carries `oars` wherever it is that it goes.")
    (folder / "b.pdf").write_bytes(b"%PDF, or not")
    monkeypatch.setitem(sys.modules, "markitdown", None)
    with pytest.raises(ValueError, match=r'install "markitdown\[pdf,docx\]==0.1.9"'):
        read(folder)

    def convert(path):
        return SimpleNamespace(markdown=path.read_text() if path.suffix == ".html" else 1 / 0)

    reader = ModuleType("markitdown")
    reader.MarkItDown = lambda: SimpleNamespace(convert=convert)
    monkeypatch.setitem(sys.modules, "markitdown", reader)
    train, held_out = read(folder)
    assert [t["answer"] for t in train + held_out] == ["oars"]
    assert "failed 1 times: docs/b.pdf: division by zero" in report(folder)


class Model:
    """Answers as OpenAI's API does: well, in prose, with an error, or late, as a passage says."""

    def __init__(self):
        self.calls, self.app = [], FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)

    def complete(self, body: dict) -> Response:
        text = body["messages"][1]["content"]
        if "response_format" not in body:
            return self.draw(body, text)
        name = body["response_format"]["json_schema"]["name"]
        self.calls.append((name, text))
        number = text.partition("00")[0][-1]
        if "late" in text:
            time.sleep(0.8)
        said = {"answer": "the wrong one" if "disputed" in text else f"Load{number}."}
        if name == "About":
            asked = [f"What does boat number {number}00 carry?", f"Its load, boat {number}00 is:"]
            said = {"tasks": [{"questions": asked, "answer": f"load{number}"}]}
        content = "Gladly! What does it carry?" if "prose" in text else json.dumps(said)
        return replied(body, [content], 422 if "error" in text else 200)

    def draw(self, body: dict, text: str) -> Response:
        """What the policy says of load1, 2, ...: that many times the right thing."""
        self.calls.append((body["model"], body["temperature"], body["n"]))
        number = text.partition("load")[2][0]
        said = [f"Load{number}." if i < int(number) else "?" for i in range(body["n"])]
        return replied(body, said)


def replied(body: dict, said: list[str], status: int = 200) -> Response:
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        for i, content in enumerate(said)
    ]
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return Response(json.dumps({**whole, "choices": choices}), status)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(teacher, "SECONDS", 0.3)
    model = Model()
    with served(model.app) as url:
        model.url = f"{url}/v1"
        yield model


def test_a_teacher_is_asked_twice_and_its_failures_are_counted(folder, model):
    many(folder, 9)
    for n, word in enumerate(["prose", "error", "late", "disputed"]):
        (folder / f"{n}.md").write_text(f"{word}: the boat {n}00 carries load{n} on its ways.")
    options = {"teacher": model.url, "model": "m", "questions": 1, "wordings": 2}
    train, held_out = read(folder, **options)
    tasks = train + held_out
    assert sorted(t["answer"] for t in tasks) == [f"load{n}" for n in range(4, 9) for _ in "12"]
    # Two wordings of a question are on one side.
    assert {t["passage"] for t in train} & {t["passage"] for t in held_out} == set()
    assert len(held_out) == 2
    told = report(folder)
    assert "another answer, by the passage alone: 2 of 12 dropped" in told
    assert "failed 1 times: ValidationError: 1 validation error for About" in told
    assert "failed 1 times: UnprocessableEntityError: Error code: 422" in told
    assert "failed 1 times: APITimeoutError: Request timed out." in told
    # Each at most once, but for what came late; those that failed, of no question.
    num_calls = Counter(name for name, _ in {*model.calls})
    assert num_calls == {"About": 9, "Reading": 12}
    # It sees the passage and the question, never the answer that it gave.
    assert all("load" in text.partition("The question")[0] for _, text in model.calls)
    before = len(model.calls)
    assert (read(folder, **options), len(model.calls)) == ((train, held_out), before)
    (folder / "8.md").write_text("The boat 800 carries load8 alone.")
    read(folder, **options)
    # What was changed, and what failed before.
    again = [text for name, text in model.calls[before:]]
    assert {text.partition("00 carries")[0][-1] for text in again} == {"0", "1", "2", "8"}


def test_a_model_that_has_no_url_is_served_while_it_is_asked(folder, model, monkeypatch):
    """What serves it is tested with a real one: tests/debug/test_serve.py."""
    many(folder, 3)
    (folder / "0.md").unlink()
    noted = []

    @contextmanager
    def serving(path):
        noted.append(path)
        yield model.url, "key", "m"
        noted.append(len(model.calls))

    monkeypatch.setattr(hub, "behind_url", serving)
    train, held_out = read(folder, teacher="run/step-00040", questions=1)
    assert sorted(t["answer"] for t in train + held_out) == ["load1", "load2"]
    # Two passages and two questions, all of them before it was let go.
    assert noted == ["run/step-00040", 4]
    assert (read(folder, teacher="run/step-00040", questions=1), len(noted)) == (
        (train, held_out),
        2,
    )


def test_what_the_policy_never_or_always_gets_right_is_dropped(folder, model, monkeypatch):
    for n, size in enumerate(["tiny", "small", "middling", "large", "huge", "vast"]):
        (folder / f"{n}.md").write_text(f"The {size} boat carries `load{n}` on each of its ways.")

    @contextmanager
    def serving(path):
        yield model.url, "key", path

    monkeypatch.setattr(hub, "behind_url", serving)
    train, held_out = read(folder, policy="run/step-00040")
    assert sorted(t["answer"] for t in train + held_out) == ["load1", "load2", "load3"]
    assert model.calls == [("run/step-00040", 1, 4)] * 6
    assert "never right, or always: 3 of 6 dropped" in report(folder)


def test_a_teacher_that_is_not_there_is_a_sentence(folder):
    many(folder, 1)
    with pytest.raises(ValueError, match=r"(?s)no task.*failed 1 times: APIConnectionError"):
        read(folder, teacher="http://127.0.0.1:9/v1", model="m")


SENTENCE = "The harbour master of the town counts 37 boats on every Monday."
OF_DOCX = """<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">
<w:body><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:body></w:document>"""
KINDS = """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default
Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override
PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordproce\
ssingml.document.main+xml"/></Types>"""
PARTS = """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="1" Target="word/document.xml" Type="http://schemas.openxmlformats.org/officeDocu\
ment/2006/relationships/officeDocument"/></Relationships>"""


def write_docx(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("[Content_Types].xml", KINDS)
        file.writestr("_rels/.rels", PARTS)
        file.writestr("word/document.xml", OF_DOCX.format(SENTENCE))


def write_pdf(path):
    stream = f"BT /F1 12 Tf 50 700 Td ({SENTENCE}) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        "/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    text, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(text))
        text += f"{number} 0 obj{content}endobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = f"trailer<</Size 6/Root 1 0 R>>\nstartxref\n{len(text)}\n%%EOF"
    path.write_text(f"{text}xref\n0 6\n0000000000 65535 f \n{table}{end}")


if find_spec("markitdown"):

    def test_html_pdf_and_docx_are_read(folder):
        (folder / "a.html").write_text(f"<h1>Boats</h1><p>{SENTENCE.replace('Mon', 'Fri')}</p>")
        write_docx(folder / "b.docx")
        write_pdf(folder / "c.pdf")
        found = [task for tasks in read(folder) for task in tasks]
        assert {(t["document"], t["heading"]) for t in found} == {
            ("docs/a.html", "Boats"),
            ("docs/b.docx", ""),
        }
        # The PDF says what the other does: one passage, and one question.
        assert "docs: 3 files, 2 passages, 2 questions" in report(folder)
        assert "failed" not in report(folder)
