"""The playground in a browser: playground.py target/debug/newshound-server [FOLDER for screenshots]

Asks for a demo reader as somebody does who has no mouse, sees candidates come and the chosen list, and looks for what makes a page hard to use.
"""
import re
import shutil
import sys
import tempfile
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect as expect_soon
from playwright.sync_api import sync_playwright

from support import PATIENCE_S, Process, expect, free_ports, get, step, wait_until

# Readers who are asked until a list of one is pruned: with the demo two lists in five are.
PRUNED_READERS_MAX = 6

BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


class Demo(Process):
    """The server with its demo, which has the playground."""

    def __init__(self, binary, work):
        self.grpc, self.http = free_ports(2)
        addresses = ["--grpc-addr", f"127.0.0.1:{self.grpc}", "--http-addr", f"127.0.0.1:{self.http}"]
        super().__init__([binary, *addresses], work / "demo.log")

    def __enter__(self):
        super().__enter__()
        wait_until(lambda: get(f"http://127.0.0.1:{self.http}/healthz") == "ok\n", "the demo is ready")
        return self


def accessible(page, what):
    found = Axe().run(page).response["violations"]
    expect(not found, f"{what}: " + "; ".join(f"{rule['id']}: {[node['target'] for node in rule['nodes']]}" for rule in found))


def tab_to(page, target):
    """Presses Tab until an element has the focus, as who has no mouse."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == target:
            return
    expect(False, f"Tab never reaches {target}")


def cut(request):
    """Whether a request failed. Chromium says so too of a stream that was read to its end before its network had told that this was the end."""
    return not (request.url.endswith(":stream") and request.failure == "net::ERR_ABORTED")


def grows(page):
    """How many lists had ended and how many queries those had that had not, one after the other, noted by the page as it changes."""
    page.evaluate(
        """() => {
            window.seen = [];
            const count = what => document.querySelectorAll(what).length;
            window.foreseen = new Set();
            const note = () => {
                window.seen.push([count("#candidates > li:not(.growing)"), count("#candidates > li.growing li")]);
                for (const word of document.querySelectorAll("#candidates > li.growing > .word")) window.foreseen.add(word.textContent);
            };
            new MutationObserver(note).observe(document.getElementById("candidates"), {childList: true, subtree: true});
        }"""
    )


def check(browser, url, pictures, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"{request.url}: {request.failure}") if cut(request) else None)
    page.goto(url)
    expect_soon(page.locator("#pick")).to_be_visible()
    grows(page)
    page.keyboard.press("Tab")
    expect(page.evaluate("document.activeElement.className") == "skip", "the first stop skips to the results")
    tab_to(page, "reader")
    page.keyboard.press("ArrowDown")
    expect_soon(page.locator("#key")).to_have_value(re.compile("^u"))
    tab_to(page, "ask")
    page.keyboard.press("Enter")
    expect_soon(page.locator("#status")).to_have_text(re.compile("^Done: [3-8] queries from 8 lists"), timeout=PATIENCE_S * 1000)
    seen = page.evaluate("window.seen")
    n_ended, n_growing = ({state[place] for state in seen} for place in (0, 1))
    expect(seen[-1] == [8, 0] and len(n_ended) > 2, f"candidates came as {seen}")
    expect(len(n_growing) > 5, f"candidates grew as {seen}")
    foreseen = page.evaluate("[...window.foreseen]")
    expect(any(re.match(r"score foreseen 0\.\d", word) for word in foreseen), f"no score was foreseen: {foreseen}")
    n_queries = page.locator("#chosen > li").count()
    expect(3 <= n_queries <= 8, f"{n_queries} queries are chosen")
    expect(page.locator("#candidates > li.best").count() == 1, "one candidate is the chosen one")
    expect(page.locator("#signals .keep").count() > 0, "the cleaner's verdicts are shown")
    expect_soon(page.locator("#articles > li").first).to_be_visible()
    facts = page.locator("#facts").inner_text()
    for fact in ("Total", "Prefill", "Cost", "Arms", "Cache", "bypass"):
        expect(fact in facts, f"{fact} is not among the facts:\n{facts}")
    expect(page.evaluate("document.activeElement.id") == "ask", "the focus stays where it was")
    accessible(page, f"{scheme}, answered")
    page.screenshot(path=pictures / f"playground-{scheme}.png", full_page=True)
    expect(not problems, f"the browser complains: {problems}")
    step(f"{scheme}: a reader is picked and asked for by keyboard, {len(n_ended)} numbers of lists that had ended were seen, and {len(n_growing)} of queries of those that had not")

    # The demo's aggressive early stopping ends two lists in five, but those of one reader may all be as good.
    page.select_option("#stopping", "EARLY_STOPPING_AGGRESSIVE")
    for reader in range(1, PRUNED_READERS_MAX + 1):
        # Another number of lists for each, so that the words of the last are not taken for hers.
        n_lists = 16 - reader
        page.select_option("#reader", index=reader)
        page.fill("#count", str(n_lists))
        page.click("#ask")
        done = re.compile(f"^Done: [3-8] queries from {n_lists} lists")
        expect_soon(page.locator("#status")).to_have_text(done, timeout=PATIENCE_S * 1000)
        n_pruned = page.locator("#candidates > li .mark.ended", has_text="pruned").count()
        if n_pruned > 0:
            break
    expect(n_pruned > 0, f"no list of {PRUNED_READERS_MAX} readers is shown as pruned")
    step(f"{scheme}: {n_pruned} of {n_lists} lists are shown as pruned")

    page.fill("#text", "nothing that is a signal")
    page.click("#ask")
    expect_soon(page.locator("#status")).to_have_text(re.compile("^Line 1 begins with none"))
    page.fill("#text", "search: running shoes")
    page.fill("#arm", "none=here")
    page.click("#ask")
    expect_soon(page.locator("#status")).to_have_text(re.compile("ARM_UNKNOWN"))
    accessible(page, f"{scheme}, refused")
    page.set_viewport_size({"width": 360, "height": 800})
    wide = page.evaluate("document.documentElement.scrollWidth")
    expect(wide <= 360, f"on a phone the page is {wide} wide")
    page.screenshot(path=pictures / f"playground-{scheme}-narrow.png")
    # The one request that was to be refused is told by the browser too.
    expect(all("404" in problem for problem in problems), f"the browser complains: {problems}")
    context.close()
    step(f"{scheme}: refusals are told, and the page fits a phone")


def main():
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        print("== playground: SKIPPED, there is no Chromium (Debian: apt-get install chromium)", flush=True)
        return
    with tempfile.TemporaryDirectory() as work, Demo(Path(sys.argv[1]).resolve(), Path(work)) as demo, sync_playwright() as playwright:
        pictures = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(work)
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            check(browser, f"http://127.0.0.1:{demo.grpc}/playground", pictures, scheme)
        browser.close()


if __name__ == "__main__":
    main()
