"""Headless Chromium for the report's tests: pages in frames, and what a script around them found."""

import html
import json
import re
import shutil
import subprocess

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --hide-scrollbars
    --window-size=1800,1000""".split()  # noqa: SIM905

SHOW = """window.onload = async () => {
  const out = document.createElement('pre');
  out.id = 'found'; out.textContent = JSON.stringify(await run());
  document.body.append(out);
};"""


def run_around(frames, script, folder, *, dark=False):
    """Show pages in frames and run a script beside them.

    Args:
        frames: name → (page, width in px); the page is the source of a frame, whose id is the name.
        script: the body of an async function that returns what is found, JSON-able.
        folder: for the outer page and the browser's profile.
        dark: whether the reader prefers dark colours.

    Returns:
        What the script returned, and what the browser logged.
    """
    shown = "".join(
        f'<iframe id="{name}" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for name, (page, width) in frames.items()
    )
    code = f"const run = async () => {{ {script} }};\n{SHOW}"
    outer = folder / "outer.html"
    outer.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{shown}<script>{code}</script></body>", "utf-8")
    profile = folder / "profile"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [BROWSER, *FLAGS, *scheme, "--virtual-time-budget=120000", f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run(
        [*command, outer.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=600, check=False
    )
    shutil.rmtree(profile, ignore_errors=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), done.stderr
