"""The page, in a browser without a window."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.search import SearchIndex

pytest.importorskip("gradio", reason="needs the extra `demo`")
from sentence_transformers_mirror import demo  # noqa: E402
from sentence_transformers_mirror.demo import serving  # noqa: E402
from sentence_transformers_mirror.demo.answer import Side, rendered  # noqa: E402
from sentence_transformers_mirror.demo.asked import Asked, parse_filter  # noqa: E402
from sentence_transformers_mirror.demo.chart import Chart, Sample  # noqa: E402
from sentence_transformers_mirror.demo.page import both_sides  # noqa: E402

TEXTS = [
    "open the file",
    "write the list",
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "${document.title = 'owned'} {{document}} `a`",
]
METADATA = [{"kind": "plain"}] * 2 + [{"kind": "<b>markup</b>", "tags": ["a&b", 'c"d']}] * 3


def close_all():
    import gradio

    gradio.close_all(verbose=False)


@pytest.fixture
def index(tiny_model):
    return SearchIndex.build(tiny_model, TEXTS, metadata=METADATA)


@pytest.fixture
def address(index):
    yield demo.serve(index, block=False)
    close_all()


@pytest.fixture
def side(index):
    return Side(index, Chart(Sample.of(index)))


def alone(model, texts):
    index = SearchIndex.build(model, texts)
    return Side(index, Chart(Sample.of(index)))


# ---------------------------------------------------------------------------- who may ask


def test_where_the_page_is_and_that_ctrl_c_ends_it(index, monkeypatch, capfd):
    told = []

    def ctrl_c(seconds):
        if threading.current_thread() is threading.main_thread() and not told:
            told.append(capfd.readouterr())
            address = told[0].err.split()[4]
            assert urllib.request.urlopen(address, timeout=10).status == 200
            raise KeyboardInterrupt
        slept(seconds)

    slept = serving.time.sleep
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        import gradio

        launch = gradio.Blocks.launch

        def launched(self, **options):
            found = launch(self, **options)
            capfd.readouterr()
            patch.setattr(serving.time, "sleep", ctrl_c)  # not before: gradio sleeps while it starts
            return found

        patch.setattr(gradio.Blocks, "launch", launched)
        demo.serve(index)
    ((out, err),) = told
    assert out == "" and err.startswith("The page is at http://127.0.0.1:") and len(err.splitlines()) == 1
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(err.split()[4], timeout=10)


def test_only_this_machine_may_ask(address):
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    other = socket.gethostbyname(socket.gethostname())
    if other.startswith("127."):
        pytest.skip("this machine has no other address")
    with socket.socket() as client:
        client.settimeout(2)
        assert client.connect_ex((other, port)) != 0


@pytest.mark.parametrize(
    "path, headers, body, told",
    [
        ("/", {"Host": "evil.example"}, None, "answers to the address or the name of its machine only"),
        ("/", {"Origin": "http://evil.example"}, None, "not for other websites"),
        ("/gradio_api/upload", {}, bytes(5_000_000), "takes no uploads"),
        ("/gradio_api/call/search", {}, bytes(5_000_000), "too large"),
    ],
)
def test_other_websites_and_uploads_are_told_no(address, path, headers, body, told):
    """The whole body is read before the answer: a browser would otherwise see a broken connection."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address.rstrip("/") + path, body, headers), timeout=30)
    assert refused.value.code == 403 and told in refused.value.read().decode()


@pytest.mark.parametrize("padding, taken", [(1, True), (30, False)])
def test_a_body_that_tells_no_length_is_bounded(address, padding, taken):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = [b" " * 100_000] * padding + [b'{"data": ["open", 1, "", "words"]}']
    connection.request("POST", "/gradio_api/call/search", iter(body), {"Content-Type": "application/json"})
    assert (connection.getresponse().status == 200) == taken
    with urllib.request.urlopen(address, timeout=30) as page:  # which still answers
        assert page.status == 200


def test_a_browser_is_told_to_load_from_here_alone(address):
    with urllib.request.urlopen(address, timeout=30) as page:
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'self' data: blob:;") and "http" not in policy
        assert "fonts.googleapis" not in page.read().decode()


def test_the_command_serves_both_indexes_with_their_models(tiny_model, make_model, tmp_path, monkeypatch, capsys):
    for name, model in (("before", tiny_model), ("after", make_model("roberta"))):
        model.save_pretrained(str(tmp_path / f"{name}-model"))
        SearchIndex.build(tmp_path / f"{name}-model", TEXTS).save(tmp_path / name)
    served = []
    monkeypatch.setattr(demo, "serve", lambda *given, **named: served.append((*given, named["before"])))
    folders = [str(tmp_path / "after"), "--before", str(tmp_path / "before")]
    assert main(["demo", *folders]) == 0 and main(["demo", folders[0], "--port", "7999"]) == 0
    (after, host, port, before), (_, _, other, none) = served
    assert (host, port, other, none) == ("127.0.0.1", None, 7999, None)
    assert [Path(one.facts()["model"]).name for one in (before, after)] == ["before-model", "after-model"]
    assert main(["demo", *folders[:2], str(tmp_path / "absent")]) == 3
    assert main(["demo", *folders, "--port", "0"]) == 2 and "--port is a number" in capsys.readouterr().err


# ---------------------------------------------------------------------------- questions


@pytest.mark.parametrize("text", ["kind", "[1]", "{", "7", "[" * 100_000])
def test_filters_that_are_none(text):
    assert parse_filter(" ") is None and parse_filter('{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="A filter is a JSON object"):
        parse_filter(text)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked("a & b = ? # <b> é 東", 7, '{"kind": ["<b>", 1]}', "both"),
        Asked("x", 10, "no json", "words"),
    ],
)
def test_a_link_keeps_what_is_asked(asked):
    assert Asked.by(asked.link) == asked
    assert set(parse_qs(asked.link[1:])) <= {"q", "k", "where", "mode"}


@pytest.mark.parametrize(
    "link", ["?k=0", "?k=-3", "?k=1e9", "?k=²", "?mode=odd", "?q=", "?%ff=&&=", "", "?__theme=dark"]
)
def test_links_that_ask_nothing_of_sense_ask_for_what_is_usual(link):
    assert Asked.by(link) in (Asked(), Asked(top_k=1))
    assert Asked.by("?k=99999999").top_k == 100


def test_conditions_come_and_go():
    asked = Asked("q").only("kind", "a").only("year", 2024).only("kind", "b")
    assert asked.conditions == {"kind": "b", "year": 2024}
    assert asked.whatever("kind").conditions == {"year": 2024}
    assert asked.whatever("kind").whatever("year") == Asked("q")
    assert Asked(where="[broken").only("kind", "a").conditions == {"kind": "a"}


# ---------------------------------------------------------------------------- answers


def test_what_texts_say_is_text(side):
    asked = Asked("<script> title & 'owned'", 10, '{"kind": ["<b>markup</b>", "plain"]}', "both")
    page = rendered([side], asked, TEXTS)
    assert "<script" not in page and "<img" not in page and "<b>markup" not in page and "&lt;b&gt;markup" in page
    assert "<mark>script</mark>" in page and "<mark>owned</mark>" in page and "&lt;img src=x" in page
    for blank in ("", "  "):
        page = rendered([side], Asked(blank), TEXTS)
        assert "<script" not in page and "&lt;script" in page and "st-hit" not in page
    assert "<script" not in rendered([side], Asked("a", where='{"<script>": 1}'), [])


def test_states_of_the_page(side):
    assert "meets the filter" in rendered([side], Asked("open", where='{"kind": "none"}'), [])
    page = rendered([side], Asked("zzz", mode="words"), [])
    assert "No text has a word of this query." in page and Asked("zzz", mode="meaning").link in page.replace(
        "&amp;", "&"
    )
    assert "A filter is a JSON object" in rendered([side], Asked("open", where="kind"), [])
    assert "the keys are: kind, tags" in rendered([side], Asked("open", where='{"color": 1}'), [])
    assert 'role="alert"' in rendered([side], Asked("?!", mode="words"), [])


def test_scores_of_nothing_have_no_bar(tiny_model):
    side = alone(tiny_model, ["the only text"])
    page = rendered([side], Asked("zebra", mode="both"), [])
    assert "the only text" in page


@pytest.mark.parametrize("asked", [Asked("a " * 200_000), Asked("a", where='{"kind": "' + "b" * 200_000 + '"}')])
def test_what_an_address_cannot_hold_is_refused(side, asked):
    page = rendered([side], asked, [])
    assert "2,000 characters here at most" in page and len(page) < 20_000


def test_half_a_character_is_no_part_of_an_address(side):
    with pytest.raises(ValueError, match="A filter is a JSON object"):
        parse_filter('{"\\ud800": 1}')
    assert "A filter is a JSON object" in rendered([side], Asked("a", where='{"\\ud800": 1}'), [])
    assert Asked("a\ud800").link == "?q=a%3F"


def test_chips_lead_to_texts_with_the_same_value(side):
    (answer,) = [side.answer(Asked("c", 5))]
    chips = [chip for card in answer.cards for chip in card.chips]
    assert {chip.value for chip in chips if chip.key == "tags"} == {"a&b", 'c"d'}
    for chip in chips:
        found = side.answer(Asked.by(chip.link)).cards
        assert found and all(chip.value in [one.value for one in card.chips] for card in found)


def test_long_texts_are_cut_and_whole_below(tiny_model):
    long = "word " * 300 + "end"
    side = Side(index := SearchIndex.build(tiny_model, [long, "short"]), Chart(Sample.of(index)))
    first, second = sorted(side.answer(Asked("word")).cards, key=lambda card: card.hit.id)
    assert sum(len(piece) for piece, _ in first.text) <= 420 and ("…", False) in [(t[-1], m) for t, m in first.text]
    assert "".join(piece for piece, _ in first.whole) == long and second.whole is None
    cut = SearchIndex.build(tiny_model, ["One is here. " * 30 + "Two is there."], passages=12)
    (card,) = Side(cut, Chart(Sample.of(cut))).answer(Asked("two")).cards
    assert "".join(piece for piece, _ in card.text) == card.hit.passage != card.hit.text
    assert "".join(piece for piece, _ in card.whole) == card.hit.text


def test_what_changed_is_said_on_both_sides(tiny_model, make_model):
    texts = [f"text number {number} of a door" for number in range(30)]
    indexes = [SearchIndex.build(model, texts) for model in (tiny_model, make_model("roberta"))]
    before, after = both_sides(indexes[1], indexes[0])
    first, second = (side.answer(Asked("a door", 5)) for side in (before, after))
    places = [{card.hit.id: card.number for card in answer.cards} for answer in (first, second)]
    assert places[0] != places[1]
    for mine, other, gone, moved in ((second, first, "new", "before"), (first, second, "gone after", "after")):
        there = {card.hit.id: card.number for card in other.cards}
        for card in mine.beside(other, before=mine is first).cards:
            place = there.get(card.hit.id)
            assert card.change == (
                gone if place is None else "same place" if place == card.number else f"{moved}: {place}"
            )
    page = rendered([before, after], Asked("a door", 5), [])
    assert (
        page.index('aria-label="Before"') < page.index('aria-label="After"')
        and page.count('class="st-card st-hit"') == 10
    )


def test_common_words_are_not_marked(tiny_model):
    texts = [f"the door of house {number}" for number in range(40)]
    side = Side(index := SearchIndex.build(tiny_model, texts), Chart(Sample.of(index)))
    assert side.telling("the house 7") == "7" and side.telling("The door") == "The door"


# ---------------------------------------------------------------------------- the map


@pytest.fixture
def cloud(monkeypatch):
    """An index of vectors in a flat cloud."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # UMAP places what is new only roughly
    flat = np.random.default_rng(0).normal(size=(60, 2)) @ np.eye(2, 16) + 3 * np.eye(16)[5]
    return SearchIndex.from_vectors(flat, [f"text {number}" for number in range(60)])


def test_the_map_places_hits_where_their_texts_lie(cloud):
    chart = Chart(Sample.of(cloud))
    assert chart.places.shape == (60, 2) and chart.places.min() == 0 and chart.places.max() == 1
    hits = cloud.search(np.eye(16)[5], top_k=60)[::6]
    where = dict(zip(chart.sample.ids, chart.places, strict=True))
    expected = np.stack([where[hit.id] for hit in hits])
    np.testing.assert_array_equal(chart.place(hits), expected)
    # A hit that is not in the sample is placed by its vector.
    known = {hit.id for hit in hits}
    part = Chart(Sample.of(cloud, [item for item in cloud if item not in known]), like=chart)
    np.testing.assert_allclose(part.place(hits), expected, atol=0.15)


def test_a_map_is_turned_towards_another(cloud):
    sample = Sample.of(cloud)
    first = Chart(sample)
    mirrored = Chart(Sample(sample.ids, sample.texts, -sample.vectors), like=first)
    np.testing.assert_allclose(mirrored.places, first.places, atol=1e-4)
    few = Sample.of(cloud, [3, "absent", 5])
    assert few.ids == [3, 5] and few.texts == ["text 3", "text 5"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_texts_have_a_map_too(tiny_model, count):
    index = SearchIndex.build(tiny_model, TEXTS[:count])
    chart = Chart(Sample.of(index), like=Chart(Sample.of(index, [])))
    assert chart.places.shape == (count, 2) and np.isfinite(chart.place(index.search("open"))).all()


def test_examples_are_words_of_the_texts(tiny_model):
    texts = [f"Open the door number {number}. Then leave." for number in range(40)] + ["x" * 500, "a"]
    examples = Sample.of(SearchIndex.build(tiny_model, texts)).examples()
    assert len(examples) == 6 and all(any(text.startswith(one) for text in texts) for one in examples)
    assert all(3 <= len(one.split()) and len(one) <= 70 for one in examples)
    assert Sample.of(SearchIndex.build(tiny_model, ["a"])).examples() == ["a"]


# ---------------------------------------------------------------------------- in a browser


class Watched:
    """A page of a browser, what its console says and what it asks for."""

    def __init__(self, browser, **options):
        self.page = browser.new_page(**options)
        self.told, self.asked = [], []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def check(self, address):
        assert self.page.title() == "st-mirror" and not self.told
        assert {urlsplit(url).netloc for url in self.asked if not url.startswith(("data:", "blob:"))} == {
            urlsplit(address).netloc
        }
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert self.page.query_selector("#answer script, #answer img, #answer b b") is None


def where_it_is(page):
    return Asked.by(urlsplit(page.url).query)


def test_search_filter_and_neighbours_in_a_browser(address, browser):
    watched = Watched(browser)
    page = watched.page
    page.goto(address)
    cards = page.locator(".st-hit")
    box = page.get_by_label("Query")

    page.get_by_text("try one of these").wait_for()
    assert cards.count() == 0
    box.fill("open the file")
    page.click("#search")
    cards.get_by_text("open the file").wait_for()
    table = page.inner_text("#answer")
    assert "1.000" in table and all(text in table for text in TEXTS) and "${" in table
    assert page.locator(".st-hit .st-bar i").first.get_attribute("style") == "width:100.0%"
    watched.check(address)
    assert where_it_is(page) == Asked("open the file")

    page.locator(".st-hit .st-chip").get_by_text("<b>markup</b>").first.click()
    page.wait_for_function("document.querySelectorAll('.st-hit').length === 3")
    assert where_it_is(page).conditions == {"kind": "<b>markup</b>"}
    page.get_by_text("Filter and number of hits").click()
    assert page.locator("#where textarea, #where input").input_value() == '{"kind": "<b>markup</b>"}'
    page.locator(".st-active .st-chip").click()
    page.wait_for_function("document.querySelectorAll('.st-hit').length === 5")
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.st-hit').length === 3")
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.st-hit').length === 5")

    cards.filter(has_text="onerror").get_by_text("Similar texts").click()
    page.wait_for_function("document.querySelector('#query input, #query textarea').value.includes('onerror')")
    box.fill("the lists of title")
    page.get_by_label("words", exact=True).check()
    page.locator(".st-hit mark", has_text="the").nth(1).wait_for()
    assert page.locator(".st-hit mark", has_text="the").count() == 2
    page.reload()
    page.locator(".st-hit mark", has_text="title").first.wait_for()
    page.get_by_text("Filter and number of hits").click()
    assert box.input_value() == "the lists of title" and page.get_by_label("words", exact=True).is_checked()

    page.locator(".st-hit").get_by_text("write the list").hover()
    assert page.locator(".st-lit.st-on").count() == 1
    page.locator(".st-lit").last.hover(force=True)
    assert page.inner_text(".st-tip").partition(". ")[2] in TEXTS

    page.fill("#where textarea, #where input", "kind")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("A filter is a JSON object").wait_for()
    page.get_by_text("Search without the filter").click()
    cards.first.wait_for()
    box.fill("zzz")
    box.press("Enter")
    page.get_by_text("No text has a word of this query").wait_for()
    page.locator(".st-point").nth(2).hover()
    assert page.inner_text(".st-tip") in TEXTS
    page.locator(".st-point").nth(2).click()
    cards.first.wait_for()
    assert where_it_is(page).query in TEXTS
    watched.check(address)


def test_back_leads_out_of_a_link_with_needless_parts(address, browser):
    watched = Watched(browser)
    page = watched.page
    page.goto(address)
    page.get_by_text("try one of these").wait_for()
    page.goto(f"{address}?q=open+the+file&where=&k=05")
    hits = "document.querySelectorAll('.st-hit').length"
    page.wait_for_function(f"{hits} === 5")
    page.get_by_label("Query").fill("write the list")
    page.click("#search")
    page.wait_for_function("location.search.includes('write')")
    page.go_back()
    page.wait_for_function(f"location.search.includes('open') && {hits} === 5")
    page.wait_for_timeout(300)  # for what the page itself would add
    page.go_back()
    page.get_by_text("try one of these").wait_for()
    assert urlsplit(page.url).query == ""
    watched.check(address)


@pytest.mark.parametrize("asks_nothing", ["?utm_source=x", "?k=10"])
def test_back_leads_to_a_page_that_asked_nothing(address, browser, asks_nothing):
    watched = Watched(browser)
    page = watched.page
    page.goto(f"{address}{asks_nothing}")
    page.get_by_text("try one of these").wait_for()
    page.get_by_label("Query").fill("open the file")
    page.click("#search")
    page.wait_for_function("location.search.includes('open')")
    page.go_back()
    page.get_by_text("try one of these").wait_for()
    watched.check(address)


def test_keys_are_enough(address, browser):
    watched = Watched(browser)
    page = watched.page
    page.goto(address)
    page.get_by_text("try one of these").wait_for()

    def tab_to(found, most=30):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({found!r})"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                return outline
        raise AssertionError(f"no key leads to {found}")

    assert tab_to("#query input, #query textarea") == "solid"
    page.keyboard.type("open the file")
    page.keyboard.press("Enter")
    page.locator(".st-hit").first.wait_for()
    assert tab_to("#search") == "solid" and tab_to("#mode input") == "solid"
    assert tab_to(".st-hit .st-chip") == "solid"
    page.keyboard.press("Enter")
    page.locator(".st-active").wait_for()
    page.wait_for_function("document.activeElement.closest('#answer') !== null")  # who reads on reads the answer
    tab_to(".st-active .st-chip")
    page.keyboard.press("Enter")
    page.locator(".st-active").wait_for(state="detached")
    assert page.locator(".st-lit").count() == page.locator(".st-hit").count() == 5
    watched.check(address)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_two_indexes_side_by_side_on_any_screen(tiny_model, make_model, browser, width, scheme):
    texts = [*TEXTS, *(f"a text with a {'very' * 40} long word, number {number}" for number in range(20))]
    before, after = (SearchIndex.build(model, texts) for model in (tiny_model, make_model("roberta")))
    address = demo.serve(after, block=False, before=before)
    try:
        watched = Watched(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = watched.page
        page.goto(address + Asked("open the file", 5).link)
        page.locator(".st-hit").nth(9).wait_for()
        boxes = [page.get_by_label(name).bounding_box() for name in ("Before", "After")]
        assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1280)
        colours = page.evaluate(
            "[document.querySelector('.st-text'), document.body].map(one => getComputedStyle(one))"
            ".map((one, place) => place ? one.backgroundColor : one.color)"
        )
        light = [sum(map(int, colour[4:-1].split(","))) > 380 for colour in colours]
        assert light == [scheme == "dark", scheme == "light"]
        watched.check(address)
    finally:
        close_all()
