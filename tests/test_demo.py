"""The page, in a browser without a window."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request

import pytest

from sentence_transformers_mirror.search import SearchIndex

TEXTS = [
    "open the file",
    "write the list",
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
]


@pytest.fixture
def address(tiny_model):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    from sentence_transformers_mirror import demo

    index = SearchIndex.build(tiny_model, TEXTS, metadata=[{"kind": "plain"}] * 2 + [{"kind": "<b>markup</b>"}] * 2)
    yield demo.serve(index, block=False)
    import gradio

    gradio.close_all(verbose=False)


def test_where_the_page_is_and_that_ctrl_c_ends_it(tiny_model, monkeypatch, capfd):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    from sentence_transformers_mirror import demo

    told = []

    def ctrl_c(seconds):
        if threading.current_thread() is threading.main_thread() and not told:
            told.append(capfd.readouterr())
            address = told[0].err.split()[4]
            assert urllib.request.urlopen(address, timeout=10).status == 200
            raise KeyboardInterrupt
        slept(seconds)

    slept = demo.time.sleep
    index = SearchIndex.build(tiny_model, TEXTS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        launch = demo.gradio.Blocks.launch

        def launched(self, **options):
            found = launch(self, **options)
            capfd.readouterr()
            patch.setattr(demo.time, "sleep", ctrl_c)  # not before: gradio sleeps while it starts
            return found

        patch.setattr(demo.gradio.Blocks, "launch", launched)
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


def test_search_filter_and_neighbours_in_a_browser(address, browser):
    page = browser.new_page()
    page.goto(address)

    def shown(text):  # by what is seen: how gradio builds a table changes with its releases
        return page.locator("#hits").get_by_text(text).locator("visible=true").first

    page.fill("#query textarea, #query input", "open the file")
    page.click("#search")
    shown("open the file").wait_for()
    table = page.inner_text("#hits")
    assert "1.000" in table and "████" in table and all(text in table for text in TEXTS)
    assert page.title() != "owned" and page.query_selector("#hits script, #hits img") is None
    page.fill("#where textarea, #where input", '{"kind": "<b>markup</b>"}')
    page.click("#search")
    page.wait_for_function("!document.querySelector('#hits').innerText.includes('open the file')")
    page.fill("#where textarea, #where input", "")
    shown("onerror").click()
    page.wait_for_function("document.querySelector('#query textarea, #query input').value.includes('onerror')")
    page.fill("#query textarea, #query input", "the lists of title")
    page.get_by_label("words", exact=True).check()
    page.click("#search")
    shown("write ⟦the⟧ list").wait_for()
    assert "⟦title⟧" in page.inner_text("#hits") and page.title() != "owned"
    shown("write ⟦the⟧ list").click()
    page.wait_for_function("document.querySelector('#query textarea, #query input').value === 'write the list'")
    shown("write the list").wait_for()
    page.fill("#where textarea, #where input", "kind")
    page.click("#search")
    page.wait_for_function(
        "document.querySelector('#told textarea, #told input').value.includes('A filter is a JSON object')"
    )
    assert page.title() != "owned"


@pytest.mark.parametrize("text", ["kind", "[1]", "{", "7"])
def test_filters_that_are_none(text):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    from sentence_transformers_mirror.demo import parse_filter

    assert parse_filter(" ") is None and parse_filter('{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="A filter is a JSON object"):
        parse_filter(text)
