"""The viewer: what its server tells, and what a page in a real Chromium makes of it."""

import dataclasses
import json
import re
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from agentrl.records import open_run
from agentrl.records.files import cut_back
from agentrl.types import Episode, Group
from agentrl.viewer import __main__ as command
from agentrl.viewer import answers
from tests.support import chromium
from tests.support.made_runs import HABIT, Maker, make_run
from tests.support.sizes import sizes

NEEDS_CHROMIUM = pytest.mark.skipif(
    chromium.find() is None, reason="there is no Chromium here: `make tools` installs it"
)


def in_chromium(test):
    """A test that drives the page as a person does."""
    return pytest.mark.slow(NEEDS_CHROMIUM(test))


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    """The first of two runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs") / "apples"
    make_run(folder / "second", seed=1)
    return make_run(folder / "first", seed=0)


@pytest.fixture(scope="module")
def runs(maker):
    return [open_run(maker.folder), open_run(maker.folder.with_name("second"))]


@pytest.fixture(scope="module")
def address(runs):
    with chromium.served(runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def page(browser):
    """A new page, which may complain of nothing."""
    page = browser.new_page(viewport={"width": 1360, "height": 860})
    page.set_default_timeout(30_000)
    complaints = []
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def ask(address: str, path: str, **headers: str):
    """Status and JSON of an answer."""
    request = urllib.request.Request(address + path, headers=headers)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        body = error.read().decode()
        return error.code, json.loads(body) if body.startswith("{") else body


def told_of(run, row) -> dict:
    """What the page is told of an episode."""
    return json.loads(
        answers.to_json(answers.episode(run, row.step, row.task_id, row.episode, row.group))
    )


def episode_with(run, *, grammar: bool):
    """A row and the record of an episode that has a call under a grammar, or has none."""
    for row in run.episodes(status="ok", held_out=False):
        record = run.read(row.step, row.task_id, row.episode, row.group)
        if any(call.under_grammar for call in record.calls) == grammar:
            return row, record
    raise AssertionError("the made run has no such episode")


def link(row, run: int = 0, **more: object) -> str:
    where = {"view": "episodes", "run": run, "step": row.step, "task": row.task_id}
    where |= {"group": row.group, "episode": row.episode, **more}
    return "#" + urllib.parse.urlencode(where)


# What the server tells.


def test_an_episode_arrives_as_it_was_recorded(runs):
    row, record = episode_with(runs[0], grammar=True)
    told = told_of(runs[0], row)
    assert told["ids"] == record.ids.tolist()
    assert told["parent"] == record.parent.tolist()
    assert told["texts"] == runs[0].decode(record.ids.tolist())
    for name in ("sampler_logprobs", "trainer_logprobs", "entropies", "weights", "advantages"):
        for call, expected in zip(told["calls"], record.calls, strict=True):
            values = np.array(call[name], np.float32)
            assert values.tobytes() == getattr(expected, name).astype(np.float32).tobytes(), name
    assert [call["in_loss"] for call in told["calls"]] == [c.in_loss for c in record.calls]


def test_every_text_arrives_whole(tmp_path):
    maker = make_run(tmp_path / "apples" / "run", recorded=0)
    task = {"id": "odd"}
    call = maker.call(maker.ids("2+3?"), "five\0\n\0", [], {})
    maker.record(1, [Group(task, (Episode(task=task, index=0, calls=(call,)),))])
    told = answers.episode(open_run(maker.folder), 1, "odd", 0, 0)
    assert "".join(told["texts"]) == "2+3?five\0\n\0"


def test_an_episode_of_no_calls_arrives_too(tmp_path):
    maker = make_run(tmp_path / "apples" / "run", recorded=0)
    task = {"id": "silent"}
    maker.record(1, [Group(task, (Episode(task=task, index=0, status="timeout", error="late"),))])
    told = answers.episode(open_run(maker.folder), 1, "silent", 0, 0)
    assert (told["row"].status, told["calls"], told["ids"]) == ("timeout", [], [])


def test_only_seeds_share_a_family(runs, tmp_path):
    other = make_run(tmp_path / "apples" / "other", num_steps=5)
    told = answers.describe([*runs, open_run(other.folder)])
    assert told[0]["family"] == told[1]["family"] != told[2]["family"]
    assert [run["seed"] for run in told] == [0, 1, 0]


def test_metrics_are_columns_of_numbers(runs):
    columns = answers.metrics(runs[0])
    assert columns["step"] == [float(step) for step in range(1, 31)]
    assert columns["reward/mean"] == [row["reward/mean"] for row in runs[0].metrics()]
    assert columns["eval/success"].count(None) == 27
    assert "failure" not in columns


def test_what_is_no_number_of_a_step_is_passed_over(tmp_path):
    rows = [
        '{"step": 1, "loss": 0.5, "odd": 1}',
        '{"loss": 1.5}',
        '{"step": null, "loss": 2.5}',
        '{"step": "2", "loss": 3.5}',
        f'{{"step": 3, "loss": {10**400}}}',
        '{"step": 4, "loss": NaN}',
    ]
    (tmp_path / "config.json").write_text('{"config": {"seed": NaN}}')
    (tmp_path / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    run = open_run(tmp_path)
    columns = json.loads(answers.to_json(answers.metrics(run)))
    none = [None, None]
    assert columns == {"step": [1, 3, 4], "loss": [0.5, *none], "odd": [1, *none]}
    (told,) = json.loads(answers.to_json(answers.describe([run])))
    assert told["seed"] is None


def test_a_search_names_what_it_could_not_read(maker, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "SEARCH_SECONDS", 60.0)
    broken = shutil.copytree(maker.folder, tmp_path / "broken")
    (broken / "records" / "step-00029.tokens.parquet").write_bytes(b"\0" * 50_000)
    found = answers.episodes(open_run(broken), text="as json")
    everything = runs[0].episodes(text="as json", step=30)
    assert found.rows == everything
    assert [told.partition(": ")[0] for told in found.unread] == [
        f"step 29, task apples-{i}" for i in range(3)
    ]
    assert answers.episodes(runs[0]).unread == []


def test_a_list_longer_than_a_page_goes_on(runs, monkeypatch):
    monkeypatch.setattr(answers, "PER_PAGE", 10)
    first = answers.episodes(runs[0])
    rest = answers.episodes(runs[0], after=first.after)
    assert len(first.rows) == 10
    assert first.rows + rest.rows == runs[0].episodes(limit=20)


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("../../../../../etc/passwd", 404, "Not Found"),
        ("%2e%2e/server.py", 404, "Not Found"),
        ("vendor/%2e%2e/%2e%2e/server.py", 404, "Not Found"),
        ("/etc/passwd", 404, "Not Found"),
        ("api/runs/2/batches", 404, "there is no run 2: 2 are served."),
        ("api/runs/-1/batches", 404, "there is no run -1: 2 are served."),
        ("api/runs/0/episodes?status=lost", 422, "status: Input should be"),
        ("api/runs/0/episodes?after=-1,0,0", 422, "after: String should match"),
        ("api/runs/0/episode?step=30&task_id=../../etc&index=0", 404, "no episode 0 of ../../etc"),
        ("api/runs/0/episode?step=99999999999999999999&task_id=a&index=0", 422, "step: Input"),
    ],
)
def test_what_is_not_there_is_a_sentence(address, path, status, sentence):
    code, told = ask(address, path)
    assert code == status
    assert sentence in (told.get("error") or told["detail"])


def test_another_hosts_name_is_refused(address):
    assert ask(address, "api/runs", Host="127.0.0.1")[0] == 200
    assert ask(address, "api/runs", Host="evil.example")[0] == 400


def test_what_is_known_is_not_sent_again(address):
    with urllib.request.urlopen(address + "api/runs/0/metrics") as reply:
        tag = reply.headers["ETag"]
    request = urllib.request.Request(address + "api/runs/0/metrics", headers={"If-None-Match": tag})
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(request)
    assert answer.value.code == 304


def test_metrics_are_computed_where_the_file_has_changed(tmp_path, monkeypatch):
    def known(tag: str = "") -> tuple[int, str, int]:
        headers = {"If-None-Match": tag} if tag else {}
        request = urllib.request.Request(address + "api/runs/0/metrics", headers=headers)
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, reply.headers["ETag"], len(json.load(reply).get("step", []))
        except urllib.error.HTTPError as error:
            return error.code, error.headers["ETag"], 0

    maker = make_run(tmp_path / "apples" / "run", num_steps=3)
    file = maker.folder / "metrics.jsonl"
    with chromium.served([open_run(maker.folder)]) as address:
        _, tag, _ = known()
        with monkeypatch.context() as patch:
            patch.setattr(answers, "metrics", None)
            assert known(tag) == (304, tag, 0)
        maker.log(4)
        status, second, size = known(tag)
        assert (status, size, second != tag) == (200, 4, True)
        # A run that was resumed has another file, cut back.
        lines = file.read_text().splitlines(keepends=True)
        file.unlink()
        assert known(second)[::2] == (200, 0)
        file.write_text("".join(lines[:2]))
        assert known(second)[::2] == (200, 2)


def test_what_was_recorded_is_told_batch_after_batch(address, runs):
    batches = [[29, False], [30, False], [30, True]]
    assert ask(address, "api/runs/0/batches") == (200, batches)


def test_too_large_an_episode_is_refused(runs, monkeypatch):
    monkeypatch.setattr(answers, "MAX_TOKENS", 100)
    row, _ = episode_with(runs[0], grammar=True)
    with pytest.raises(ValueError, match="and the page shows up to 100: read it with"):
        answers.episode(runs[0], row.step, row.task_id, row.episode, row.group)


def test_the_command_ends_in_a_sentence(maker, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for argv, sentence in [
            ([tmp_path / "nowhere"], "is not the folder of a run"),
            ([maker.folder, "--port", port], "cannot be had .*: give another with --port"),
        ]:
            with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
                command.main([str(part) for part in argv])


def test_an_experiment_is_opened_without_what_cannot_be_read(maker, tmp_path, capsys):
    experiment = shutil.copytree(maker.folder.parent, tmp_path / "apples")
    for name in ("first", "second"):
        (experiment / name / "config.json").write_text("[]")
        if name == "first":
            assert [run.name for run in command.opened(experiment)] == ["apples/second"]
            assert "apples/first is not the folder of a run" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=f"^error: no run in {experiment} can be read"):
        command.main([str(experiment)])


def test_a_folder_of_runs_is_all_of_them(maker):
    folder = maker.folder.parent
    assert [run.folder for run in command.opened(folder)] == [folder / "first", folder / "second"]
    assert [run.folder for run in command.opened(folder / "first")] == [folder / "first"]


# What the page shows.


def shown(page, key: str) -> str:
    return page.locator(f"#card [data-value='{key}']").first.inner_text()


def hover(page) -> None:
    """Over the token that the page's address names."""
    page.locator(".cursor").wait_for()
    x, y = page.evaluate(
        "() => { const box = document.querySelector('.cursor').getClientRects()[0]; "
        "return [box.x + box.width / 2, box.y + box.height / 2]; }"
    )
    page.mouse.move(0, 0)
    page.mouse.move(x, y)


def listed(page) -> list[tuple]:
    """The list's episodes, from above to below."""
    rows = "rows => rows.map(({row}) => [row.step, row.group, row.episode])"
    return [tuple(row) for row in page.eval_on_selector_all(".episode", rows)]


class Held:
    """What the page asks of one kind, answered when we say so."""

    def __init__(self, page, pattern: str):
        self._page, self._pattern, self._routes = page, re.compile(pattern), []
        self._is_over = False
        page.route(self._pattern, self._hold)

    def _hold(self, route) -> None:
        if self._is_over:
            route.continue_()
        else:
            self._routes.append(route)

    def __len__(self) -> int:
        return len(self._routes)

    def when(self, act) -> None:
        """Act, until it has led to one more request."""
        before = len(self)
        with self._page.expect_request(self._pattern):
            act()
        while len(self) == before:
            self._page.wait_for_timeout(10)

    def let_go(self, number: int = 0) -> None:
        with self._page.expect_response(self._pattern):
            self._routes.pop(number).continue_()

    def let_all_go(self) -> None:
        """The newest first; and from now on, at once."""
        self._is_over = True
        while self._routes:
            self.let_go(-1)


@in_chromium
def test_hover_shows_what_was_recorded(page, address, runs):
    row, record = episode_with(runs[0], grammar=True)
    trained = record.calls[0]
    masked = next(call for call in record.calls if call.under_grammar)
    for position in [
        0,
        int(trained.path[trained.start]),
        int(trained.path[trained.start + 7]),
        int(record.calls[2].path[-1]),
        int(masked.path[-2]),
    ]:
        page.goto("about:blank")
        page.goto(address + link(row, at=position))
        hover(page)
        assert page.locator("#card .card-kind").inner_text().startswith(f"token {position} ·")
        assert shown(page, "id") == str(record.ids[position])
        said = json.loads(page.locator("#card .card-text").inner_text())
        assert said == runs[0].decode(record.ids.tolist())[position]
        sampled = [call for call in record.calls if position in call.path[call.start :]]
        if not sampled:
            assert page.locator("#card [data-value]").count() == 1
            continue
        (call,) = sampled
        t = call.path.tolist().index(position) - call.start
        values = {
            "sampler": call.sampler_logprobs[t],
            "trainer": call.trainer_logprobs[t],
            "ratio": np.exp(call.trainer_logprobs[t] - call.sampler_logprobs[t]),
            "advantage": call.advantages[t],
            "entropy": call.entropies[t],
            "weight": call.weights[t],
        }
        for name, value in values.items():
            told = shown(page, name)
            if np.isnan(value):
                assert told == "\N{EN DASH}", name
            else:
                assert float(told) == pytest.approx(float(value), rel=5e-5), name


@in_chromium
def test_a_token_that_several_calls_sampled_shows_what_each_said(page, tmp_path):
    maker = make_run(tmp_path / "apples" / "twice", recorded=0)
    task, ask = {"id": "twice"}, [{"role": "user", "content": "2+3?"}]
    prompt = maker.ids("2+3?")
    calls = [
        maker.call(prompt, text, ask, {"role": "assistant"}) for text in ("five", "five", "six")
    ]
    maker.record(1, [Group(task, (Episode(task=task, index=0, calls=tuple(calls), reward=1.0),))])
    run = open_run(maker.folder)
    (row,) = run.episodes(step=1)
    record = run.read(1, "twice", 0)
    assert [call.why_forked is None for call in record.calls] == [True, True, False]
    with chromium.served([run]) as address:
        page.goto(address + link(row, at=len(prompt)))
        hover(page)
        card = page.locator("#card")
        assert card.locator(".of").all_inner_texts() == ["call 1", "call 2"]
        told = card.locator("[data-value='sampler']").all_inner_texts()
        said = [call.sampler_logprobs[0] for call in record.calls[:2]]
        assert [float(value) for value in told] == pytest.approx(said, rel=5e-5)
        assert said[0] != said[1]
        # And the third call says why it forks.
        (cause,) = page.locator(".calls .fork").all_inner_texts()
        assert cause == f"↳ {record.calls[2].why_forked}"
        assert cause == "↳ sampled again: the same prompt was answered once more"


@in_chromium
def test_the_list_is_filtered(page, address, runs, monkeypatch):
    def expect(**filters) -> None:
        expected = {(r.step, r.group, r.episode) for r in runs[0].episodes(**filters, limit=400)}
        assert expected
        count = f"{len(expected)} episode{'s' if len(expected) > 1 else ''}"
        page.get_by_text(count, exact=True).wait_for()
        assert set(listed(page)) == expected

    page.goto(address + "#view=episodes&run=0")
    expect(step=30)
    page.get_by_text("all steps").click()
    expect()
    page.get_by_label("Status").select_option("error")
    expect(status="error")
    page.get_by_label("Status").select_option("ok")
    page.get_by_label("Habit").select_option(HABIT)
    expect(status="ok", habit=HABIT)
    page.get_by_label("Habit").select_option("")
    page.get_by_label("min reward").fill("0.5")
    expect(status="ok", min_reward=0.5)
    page.get_by_label("min reward").fill("")
    page.get_by_label("Status").select_option("")
    page.get_by_label("Training or held out").select_option("true")
    expect(held_out=True)
    page.get_by_label("Training or held out").select_option("")
    # One task at all steps, and back.
    page.get_by_label("all steps").uncheck()
    expect(step=30)
    page.get_by_role("button", name="apples-1").click()
    expect(task_id="apples-1")
    page.get_by_title("Back to all tasks").click()
    expect(step=30)
    page.get_by_label("all steps").check()
    page.get_by_label("Search the text").fill("as json")
    expect(text="as json")
    # In a large run a search takes many answers: here each looks through one episode.
    monkeypatch.setattr(answers, "SEARCH_SECONDS", 0.0)
    page.get_by_label("Search the text").fill("are you sure")
    expect(text="are you sure")
    page.get_by_label("Search the text").fill("nobody said this")
    page.get_by_text("No episode is like that.").wait_for()


@in_chromium
def test_the_keyboard_reaches_everything(page, address, runs):
    rows = runs[0].episodes(step=30)
    page.goto(address)
    page.locator(".panel").first.wait_for()
    page.keyboard.press("2")
    page.locator(".tokens pre").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("nobody said this")
    page.get_by_text("No episode is like that.").wait_for()
    page.get_by_label("Search the text").fill("")
    page.keyboard.press("Escape")
    page.get_by_text(f"{len(rows)} episodes", exact=True).wait_for()

    def opened(row) -> None:
        where = page.locator(".where", has_text=f"step {row.step}, episode {row.episode}")
        page.locator(".title").filter(has=where).get_by_text(row.task_id, exact=True).wait_for()

    opened(rows[0])
    page.keyboard.press("j")
    opened(rows[1])
    page.keyboard.press("k")
    opened(rows[0])
    # In the list as anywhere: by one.
    page.get_by_role("listbox").focus()
    page.keyboard.press("ArrowDown")
    opened(rows[1])
    page.keyboard.press("ArrowUp")
    opened(rows[0])
    page.keyboard.press("[")
    opened(runs[0].episodes(step=29)[0])
    page.keyboard.press("]")
    opened(rows[0])
    # A call, then the tokens: the cursor is where it begins, and goes on by one.
    record = runs[0].read(30, rows[0].task_id, 0, rows[0].group)
    page.locator(".calls button").nth(1).focus()
    page.keyboard.press("Enter")
    call = record.calls[1]
    page.keyboard.press("t")
    page.keyboard.press("ArrowRight")
    assert (
        page.locator("#card .card-kind")
        .inner_text()
        .startswith(f"token {call.path[call.start + 1]} ·")
    )
    page.keyboard.press("?")
    assert page.get_by_role("dialog").get_by_text("next episode").is_visible()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    # Enter follows a link and presses a button.
    page.get_by_role("button", name="Help: keys").focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Runs", exact=True).focus()
    page.keyboard.press("Enter")
    page.locator(".panel").first.wait_for()
    # Where no episode is to be seen an arrow scrolls, and opens none.
    here = page.url
    is_left_to_the_browser = page.evaluate(
        "key => document.body.dispatchEvent(new KeyboardEvent('keydown', "
        "{key, bubbles: true, cancelable: true}))",
        "ArrowDown",
    )
    assert (is_left_to_the_browser, page.url) == (True, here)
    page.locator(".run-open").nth(1).focus()
    page.keyboard.press("Enter")
    page.locator(".tokens pre").first.wait_for()
    assert "run=1" in page.url


@in_chromium
def test_all_runs_are_drawn_and_seeds_are_a_band(page, address, runs):
    page.goto(address)
    page.locator(".panel canvas").first.wait_for()
    assert page.locator(".runs li").count() == 2
    names = page.locator(".panel").evaluate_all("all => all.map((panel) => panel.dataset.metric)")
    assert set(names) == set(answers.metrics(runs[0])) - {"step"}
    values = page.locator("[data-metric='reward/mean'] .chart-values")
    last = [answers.metrics(run)["reward/mean"][-1] for run in runs]
    told = values.inner_text().split()
    assert told[:2] == ["step", "30"]
    assert [float(part) for part in told[2:]] == [pytest.approx(np.mean(last), rel=5e-5)]
    # Without the others, a run is a line.
    page.get_by_role("checkbox").nth(1).uncheck()
    told = values.inner_text().split()
    assert [float(part) for part in told[2:]] == pytest.approx(last[:1], rel=5e-5)


@in_chromium
def test_a_live_run_updates_by_itself(page, tmp_path):
    maker = make_run(tmp_path / "apples" / "live", recorded=1)
    with chromium.served([open_run(maker.folder)]) as address:
        page.goto(address)
        page.get_by_text("step 30").first.wait_for()
        # Half a line, as while it is written: what is whole counts.
        with (maker.folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 31, "reward/mean": 0.5}\n{"step": 32, "rew')
        page.locator(".run-more", has_text="step 31").wait_for()
        page.keyboard.press("2")
        page.locator(".tokens pre").first.wait_for()
        assert page.get_by_label("Step", exact=True).locator("option").count() == 1
        maker.record(31, [maker.group("later")])
        page.get_by_label("Step", exact=True).locator("option").nth(1).wait_for(state="attached")


@in_chromium
def test_what_cannot_be_read_is_said_on_the_page(browser, maker, tmp_path):
    broken = shutil.copytree(maker.folder, tmp_path / "apples")
    (broken / "records" / "step-00030.tokens.parquet").write_bytes(b"\0" * 50_000)
    run = open_run(broken)
    page = browser.new_page()
    with chromium.served([run]) as address:
        page.goto(address + link(run.episodes(step=30)[0]))
        page.get_by_role("alert").get_by_text("cannot be read").wait_for()
        # The rest of the run is there as before.
        page.keyboard.press("[")
        page.locator(".tokens pre").first.wait_for()
    page.close()


@NEEDS_CHROMIUM
@pytest.mark.parametrize("num_tokens", sizes(5_000, soak=100_000))
def test_of_many_tokens_a_few_are_drawn(page, tmp_path, num_tokens):
    """How long a frame takes is bench/viewer.py's; here, that it has little to do."""
    drawn = "all => all.filter((one) => one.checkVisibility({contentVisibilityAuto: true})).length"
    maker = make_run(tmp_path / "apples" / "long", recorded=0)
    maker.record(1, [maker.long_episode(num_tokens)])
    run = open_run(maker.folder)
    (row,) = run.episodes(step=1)
    assert row.num_tokens == num_tokens
    with chromium.served([run]) as address:
        page.goto(address + link(row))
        page.locator(".tokens pre").first.wait_for()
        assert page.locator(".tokens pre span").count() == num_tokens
        assert 0 < page.locator(".tokens pre span").evaluate_all(drawn) < 2_500
        page.locator(".tokens").focus()
        page.keyboard.press("End")
        record = run.read(1, "long", 0)
        last = int(record.calls[-1].path[-1])
        assert page.locator("#card .card-kind").inner_text().startswith(f"token {last} ·")
        assert shown(page, "id") == str(record.ids[last])
        assert 0 < page.locator(".tokens pre span").evaluate_all(drawn) < 2_500
        page.close()


@in_chromium
def test_a_page_of_one_list_is_not_added_to_another(page, address, runs, monkeypatch):
    monkeypatch.setattr(answers, "PER_PAGE", 5)
    everything = [row.key for row in runs[0].episodes(step=30)]
    more = page.get_by_role("button", name="Show more")
    status = page.get_by_label("Status")
    page.goto(address + "#view=episodes&run=0&step=30")
    more.click()
    page.get_by_text("10+ episodes", exact=True).wait_for()
    assert listed(page) == everything[:10]
    # While another list is on its way, this one has no more.
    held = Held(page, r"/episodes\?.*status=")
    held.when(lambda: status.select_option("ok"))
    assert not more.is_visible()
    held.let_go()
    of_status = [row.key for row in runs[0].episodes(step=30, status="ok")]
    page.get_by_text("5+ episodes", exact=True).wait_for()
    assert listed(page) == of_status[:5]
    # There, away and back: one list, once, whichever answer is the first.
    monkeypatch.setattr(answers, "SEARCH_SECONDS", 0.0)
    search = page.get_by_label("Search the text")
    held.when(lambda: search.fill("apples"))
    held.when(lambda: search.fill("more"))
    held.when(lambda: search.fill("apples"))
    monkeypatch.setattr(answers, "PER_PAGE", 400)
    held.let_all_go()
    page.get_by_text(f"{len(of_status)} episodes", exact=True).wait_for()
    assert listed(page) == of_status


@in_chromium
def test_a_list_that_cannot_be_had_is_asked_for_again(browser, address, runs):
    page = browser.new_page()
    page.goto(address + "#view=episodes&run=0&step=30")
    page.locator(".tokens pre").first.wait_for()
    page.route(re.compile("status=error"), lambda route: route.abort())
    page.get_by_label("Status").select_option("error")
    alert = page.get_by_role("alert")
    alert.get_by_text("The server does not answer").wait_for()
    assert listed(page) == []
    page.unroute_all()
    page.get_by_label("Status").dispatch_event("change")
    expected = [row.key for row in runs[0].episodes(step=30, status="error")]
    assert expected
    page.wait_for_function(
        "n => document.querySelectorAll('.episode').length === n", arg=len(expected)
    )
    assert listed(page) == expected
    alert.wait_for(state="hidden")
    page.close()


@in_chromium
def test_a_search_leaves_what_it_has_found_where_it_is(page, address, runs, monkeypatch):
    monkeypatch.setattr(answers, "SEARCH_SECONDS", 0.0)
    page.set_viewport_size({"width": 1360, "height": 420})
    text = "are you sure"
    found = [row.key for row in runs[0].episodes(text=text)]
    assert len(found) < len(runs[0].episodes())
    first = runs[0].episodes(text=text)[0]
    held = Held(page, r"/episodes\?.*text=")
    held.when(lambda: page.goto(address + link(first, text=text, scope="all")))
    while len(listed(page)) < len(found) - 2:
        held.when(held.let_go)
    page.evaluate(
        "() => { const list = document.querySelector('.episodes'); list.scrollTop = 90; "
        "window.first = document.querySelector('.episode'); }"
    )
    held.let_all_go()
    page.get_by_text(f"{len(found)} episodes", exact=True).wait_for()
    assert listed(page) == found
    assert page.evaluate("window.first === document.querySelector('.episode')")
    assert page.evaluate("document.querySelector('.episodes').scrollTop") == 90


@in_chromium
def test_what_a_search_could_not_read_is_counted(page, address, runs):
    def told(route) -> None:
        answer = route.fetch().json()
        unread = ["step 29, task apples-0, cannot be read: torn", "step 30, task b"]
        route.fulfill(json={**answer, "unread": unread})

    page.route(re.compile("text=as"), told)
    page.goto(address + "#view=episodes&run=0&step=30&text=as+json")
    sentence = (
        "2 episodes could not be looked through: step 29, task apples-0, cannot be read: torn"
    )
    page.get_by_role("alert").get_by_text(sentence, exact=True).wait_for()
    assert len(listed(page)) == len(runs[0].episodes(step=30, text="as json"))
    page.get_by_label("Search the text").fill("")
    page.get_by_role("alert").wait_for(state="hidden")


@in_chromium
def test_what_a_live_run_records_is_added_to_the_list(page, tmp_path, monkeypatch):
    maker = Maker(tmp_path / "apples" / "young")
    run = open_run(maker.folder)
    monkeypatch.setattr(answers, "PER_PAGE", 3)
    with chromium.served([run]) as address:
        page.goto(address + "#view=episodes&run=0")
        page.get_by_text("No episode is like that.").wait_for()
        maker.record(1, [maker.group("one"), maker.group("two")])
        page.get_by_text("3+ episodes").wait_for()
        page.locator(".tokens pre").first.wait_for()
        # Its metrics, and so its habits, come later.
        habits = page.get_by_label("Habit").locator("option")
        assert habits.count() == 1
        maker.log(1)
        habits.nth(1).wait_for(state="attached")
        # What was asked for stays.
        page.get_by_role("button", name="Show more").click()
        page.get_by_text("6+ episodes").wait_for()
        page.get_by_role("button", name="Show more").click()
        page.get_by_text("8 episodes").wait_for()
        page.evaluate("window.first = document.querySelector('.episode')")
        # A step's evaluation comes after its batch.
        maker.record(1, [maker.group("three", 1)], held_out=True)
        page.get_by_text("9 episodes").wait_for()
        assert listed(page) == [row.key for row in run.episodes(step=1)]
        assert page.evaluate("window.first === document.querySelector('.episode')")
        # Resumed from before: what it records now is another list.
        cut_back(maker.folder / "records", 0)
        maker.record(1, [maker.group("four", 2)])
        page.get_by_text("2 episodes").wait_for()
        assert listed(page) == [row.key for row in run.episodes(step=1)]


@in_chromium
def test_a_live_run_is_asked_once_at_a_time(page, address):
    page.clock.install()
    page.goto(address)
    page.locator(".panel canvas").first.wait_for()
    held = Held(page, "/runs/0/metrics")
    held.when(lambda: page.clock.run_for(2_100))
    page.clock.run_for(10_000)
    assert len(held) == 1
    held.let_go()
    held.when(lambda: page.clock.run_for(2_100))


@in_chromium
def test_a_notice_stays_for_as_long_as_it_is_true(browser, tmp_path):
    maker = make_run(tmp_path / "apples" / "run", recorded=1)
    (maker.folder / "metrics.jsonl").write_text("no row\n")
    page = browser.new_page()
    with chromium.served([open_run(maker.folder)]) as address:
        page.goto(address)
        alert = page.get_by_role("alert")
        alert.get_by_text("that is no JSON").wait_for()
        page.keyboard.press("2")
        page.locator(".tokens pre").first.wait_for()
        assert alert.get_by_text("that is no JSON").is_visible()
        page.route(re.compile("/batches"), lambda route: route.abort())
        alert.get_by_text("The server does not answer").wait_for()
        page.unroute_all()
        alert.get_by_text("The server does not answer").wait_for(state="detached")
        assert alert.get_by_text("that is no JSON").is_visible()
    page.close()


@in_chromium
def test_rows_without_a_step_are_not_drawn(page, maker, tmp_path):
    stepless = make_run(tmp_path / "apples" / "stepless", recorded=0)
    (stepless.folder / "metrics.jsonl").write_text('{"reward/mean": 0.5}\n{"odd": 1}\n')
    partly = make_run(tmp_path / "apples" / "partly", recorded=0)
    (partly.folder / "metrics.jsonl").write_text('{"step": 7, "loss": 0.5}\n{"loss": 1}\n')
    folders = [stepless.folder, partly.folder, maker.folder]
    with chromium.served([open_run(folder) for folder in folders]) as address:
        page.goto(address)
        page.locator(".panel canvas").first.wait_for()
        assert page.locator("[data-metric='odd']").count() == 0
        told = page.locator(".run-more").all_inner_texts()
        assert [text.split(" · ")[-1] for text in told] == ["no step yet", "step 7", "step 30"]


@in_chromium
def test_a_call_that_forks_stands_one_deeper(page, tmp_path):
    maker = make_run(tmp_path / "apples" / "forks", recorded=0)
    said = [{"role": "user", "content": "2+3?"}]
    call = lambda prompt, text: maker.call(prompt, text, said, {"role": "assistant"})  # noqa: E731
    first = call(maker.ids("2+3?"), "five")
    second = call(first.ids + maker.ids("sure?"), "yes")
    calls = [
        first,
        second,
        # From the same leaf another way, on from there, and from the first prompt's beginning.
        fourth := call(first.ids + maker.ids("why?"), "so"),
        call(fourth.ids + maker.ids("and?"), "no"),
        call(maker.ids("2+3?")[:1] + maker.ids("!"), "what"),
        # With nothing in common.
        call(maker.ids("Hello"), "you"),
    ]
    task = {"id": "forks"}
    maker.record(1, [Group(task, (Episode(task=task, index=0, calls=tuple(calls), reward=1.0),))])
    run = open_run(maker.folder)
    (row,) = run.episodes(step=1)
    record = run.read(1, "forks", 0)
    forks = [call.why_forked is not None for call in record.calls]
    assert forks == [False, False, True, False, True, True]
    with chromium.served([run]) as address:
        page.goto(address + link(row))
        page.locator(".calls button").first.wait_for()
        of = "all => all.map((one) => one.style.getPropertyValue('--level'))"
        levels = ["0", "0", "1", "1", "1", "0"]
        assert page.locator(".calls button").evaluate_all(of) == levels
        assert page.locator(".tokens section").evaluate_all(of) == levels


@in_chromium
def test_a_world_is_told_turn_by_turn_its_boards_as_they_were_drawn(page, tmp_path):
    maker = make_run(tmp_path / "apples" / "lake", recorded=0)
    boards = ["Go!\n[S]F\n  HG", "  (Right)\nS[F]\n  HG"]
    said = [{"role": "user", "content": boards[0]}]
    first = maker.call(maker.ids(boards[0]), "right", said, {"role": "assistant"})
    said += [{"role": "assistant", "content": "right"}, {"role": "user", "content": boards[1]}]
    second = maker.call(first.ids + maker.ids(boards[1]), "down", said, {"role": "assistant"})
    calls = first, dataclasses.replace(second, reward=1.0)
    task = {"id": "lake", "env": "gymnasium:FrozenLake-v1"}
    maker.record(1, [Group(task, (Episode(task=task, index=0, calls=calls, reward=1.0),))])
    run = open_run(maker.folder)
    (row,) = run.episodes(step=1)
    assert [call.observation for call in run.read(1, "lake", 0).calls] == boards
    with chromium.served([run]) as address:
        page.goto(address + link(row))
        turns = page.get_by_role("navigation", name="Turns").get_by_role("button")
        turns.first.wait_for()
        drawn = turns.locator("pre").evaluate_all("all => all.map((one) => one.textContent)")
        assert [text.removesuffix("<|im_end|>") for text in drawn] == [
            *(boards[0], "right", boards[1], "down")
        ]
        # A line of a board is a line here, whatever its width.
        heights = turns.locator("pre").evaluate_all("all => all.map((one) => one.clientHeight)")
        assert heights == [45, 15, 45, 15]
        assert turns.locator(".won").all_inner_texts() == ["1"]
        assert turns.nth(1).get_by_text("down").is_visible()


@in_chromium
def test_a_search_leads_to_where_an_episode_says_it(page, address, runs):
    row, _ = episode_with(runs[0], grammar=True)
    page.goto(address + link(row, text="are you sure"))
    hover(page)
    said = json.loads(page.locator("#card .card-text").inner_text())
    assert "are you sure".startswith(said.strip().lower())


@in_chromium
@pytest.mark.parametrize("at", ["999999", "-1", "1.5", "length"])
def test_a_token_that_is_not_there_is_not_sought(page, address, runs, at):
    row, _ = episode_with(runs[0], grammar=True)
    page.goto(address + link(row, at=at))
    page.locator(".tokens pre").first.wait_for()
    assert not page.locator(".cursor").is_visible()
    assert not page.get_by_role("alert").is_visible()


@in_chromium
def test_an_episode_that_could_not_be_had_is_tried_again(browser, address, runs):
    page = browser.new_page()
    page.route(re.compile("/episode[?]"), lambda route: route.abort())
    page.goto(address + link(runs[0].episodes(step=30)[0]))
    page.get_by_role("alert").get_by_text("The server does not answer").wait_for()
    page.unroute_all()
    page.locator(".episode[aria-selected=true]").click()
    page.locator(".tokens pre").first.wait_for()
    page.close()
