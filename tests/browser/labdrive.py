"""JupyterLab in a headless Chromium, for tests: a server of its own, a page that remembers everything that went wrong, and what is drawn."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# --no-sandbox: containers often run tests as root. The rest keeps Chromium itself off the network.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
IDLE = '.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status="idle"]'

NOTIFICATIONS = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}  # no pop-up over what a test looks at
HEIGHT = 1900  # of a page, in pixels

# A canvas proves nothing, igv.js makes hidden ones: this counts, over all canvases of a page and inside shadow roots, the pixels that have a colour.
INK = """() => {
  const canvases = [], walk = root => {
    canvases.push(...root.querySelectorAll("canvas"));
    for (const element of root.querySelectorAll("*")) if (element.shadowRoot) walk(element.shadowRoot);
  };
  walk(document);
  let ink = 0;
  for (const canvas of canvases) {
    if (!canvas.closest(".igv-viewport") || !canvas.width || !canvas.height) continue;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < data.length; i += 4) {
      const r = data[i], g = data[i + 1], b = data[i + 2];
      if (data[i + 3] > 0 && Math.max(r, g, b) - Math.min(r, g, b) > 60) ink++;
    }
  }
  return ink;
}"""


@contextlib.contextmanager
def lab_server(root, scratch, python=sys.executable, base_url="/"):
    """A JupyterLab over the folder ``root``, with nothing of the user's configuration; yields its URL. A hub's has a base URL, /user/NAME/."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = os.environ | {name: str(scratch / folder) for name, folder in folders.items()}
    settings = scratch / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(NOTIFICATIONS))
    options = [
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.base_url={base_url}",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--ServerApp.terminals_enabled=False",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with open(scratch / "server.log", "w") as log:
        command = [python, "-m", "jupyter", "lab", "--no-browser", "--allow-root", *options]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}{base_url}"
            _wait_until_up(url + "api/status", server, scratch / "server.log")
            yield url
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_up(url, server, log, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=2)
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not come up at {url}:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def chromium():
    """A headless Chromium; yields a function that opens a page and the list of what goes wrong in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def page():
            opened = browser.new_page(viewport={"width": 1300, "height": HEIGHT})
            return opened, _complaints(opened)

        try:
            yield page
        finally:
            browser.close()


def _complaints(page):
    """Console errors, exceptions, requests that leave this machine and answers of 400 and more, as they come."""
    wrong = []
    local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "about:", "file:")
    page.on("console", lambda message: wrong.append(f"console: {message.text[:300]}") if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"exception: {str(error)[:300]}"))
    page.on("request", lambda request: None if request.url.startswith(local) else wrong.append(f"external: {request.url[:200]}"))
    page.on("response", lambda response: wrong.append(f"{response.status}: {response.url[:200]}") if response.status >= 400 else None)
    return wrong


def open_notebook(page, url, notebook):
    """Open a notebook in a fresh workspace and wait for its kernel."""
    page.goto(f"{url}lab/tree/{notebook}?reset")
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context", timeout=90_000)
    page.wait_for_function("window.jupyterapp.shell.currentWidget.context.isReady", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel"
    page.wait_for_function(f"{kernel}?.connectionStatus === 'connected' && {kernel}.status === 'idle'", timeout=90_000)
    page.wait_for_selector(IDLE, timeout=90_000)


# Every code cell has run, or one has failed, after which the others never will.
ENDED = """(cells => cells.some(cell => cell.outputs.toJSON().some(output => output.output_type === "error"))
  || cells.every(cell => cell.executionCount))([...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code"))"""


def run_all(page, seconds=90):
    """Run every cell and wait until each has run, or one failed. The command's own promise is not awaited: nothing would bound that wait."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(ENDED, timeout=seconds * 1000, polling=500)
    page.wait_for_selector(IDLE, timeout=90_000)


def shot(name):
    """Where a picture of that name goes: into the folder that SCREENSHOTS names."""
    return str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png")


def shoot(page, name):
    """Pictures of all of a page but its code, NAME.png 1,300 px and NAME_narrow.png 700 px wide, in the folder that SCREENSHOTS names."""
    hidden = page.add_style_tag(content=".jp-CodeCell > .jp-Cell-inputWrapper { display: none }")
    for width, suffix in ((1300, ""), (700, "_narrow")):
        page.evaluate("() => window.jupyterapp?.shell.collapseLeft()")
        page.set_viewport_size({"width": width, "height": 600})
        page.wait_for_timeout(700)  # what follows the width of the page has done so by then
        tall = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer')?.scrollHeight ?? document.body.scrollHeight"
        page.set_viewport_size({"width": width, "height": min(page.evaluate(tall) + 130, 16_000)})
        page.wait_for_timeout(700)
        page.screenshot(path=shot(name + suffix))
    hidden.evaluate("style => style.remove()")
    page.set_viewport_size({"width": 1300, "height": HEIGHT})


def save(page):
    """Save the notebook and wait until it is on disk."""
    page.evaluate("() => { window.jupyterapp.commands.execute('docmanager:save') }")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=30_000, polling=500)


def python(page, expression, statement="None"):
    """The value of an expression in the notebook's kernel, as text, once a statement has run there."""
    return page.evaluate(
        """async ([statement, expression]) => {
          const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          const run = kernel.requestExecute({ code: statement, user_expressions: { value: expression }, store_history: false });
          const { content } = await run.done;
          if (content.status !== "ok") throw new Error(content.traceback.join("\\n"));
          const value = content.user_expressions.value;
          if (value.status !== "ok") throw new Error(`${value.ename}: ${value.evalue}`);
          return value.data["text/plain"];
        }""",
        [statement, expression],
    )
