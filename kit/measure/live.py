"""Progress on a notebook's page that survives a reload of the page.

JupyterLab drops what a running cell still says once its page was reloaded, and widgets stay empty until the kernel is
idle. What the notebook holds when it is saved comes back, though, with its script: so the progress is a piece of HTML
whose script, when the kernel's own updates stay out, reads the file `progress.json` from Jupyter's server. Saving the
notebook is JupyterLab's affair every two minutes; the progress asks for it once, when it first appears, so that a
reload finds it. Where no script runs (nbconvert, an untrusted notebook) what was last said stands there.
"""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from kit.measure import notebook
from kit.measure.exhibits import in_jupyter

KERNEL = uuid4().hex[:12]
"""Of this kernel: a page believes no file that another one wrote."""

_SCRIPT = """<script>
for (const place of document.querySelectorAll('[data-kit-progress="ID"]')) {
  if (place.watched) continue;
  place.watched = true;
  if (SAVE) {
    const focused = document.activeElement;
    place.closest('.jp-NotebookPanel')?.querySelector('[data-command="docmanager:save"]')?.click();
    focused?.focus({preventScroll: true});
  }
  const [bar, line, link] = ['progress', 'span', 'a'].map((name) => place.querySelector(name));
  let missed = 0;
  const look = async () => {
    if (!place.isConnected) return;
    try {
      const told = await (await fetch(link.href, {cache: 'no-store'})).json();
      if (told.kernel !== place.dataset.kernel) return;
      const silent = Math.round(Date.now() / 1000 - told.written);
      bar.value = told.share;
      bar.hidden = told.ended;
      line.textContent = told.line + (silent > 15 && !told.ended ? ` · last heard of ${silent} s ago` : '');
      missed = 0;
      setTimeout(look, told.ended ? 5000 : 1000);
    } catch (error) {
      if (++missed < 10) setTimeout(look, 3000);
    }
  };
  setTimeout(look, 3000);
}
</script>"""


class Page:
    """The place in a notebook's output where one comparison tells where it is."""

    def __init__(self, file: Path):
        """file: `progress.json`, which a reloaded page reads."""
        self._link = quote(Path(os.path.relpath(file, notebook.page_folder())).as_posix())
        self._handle = None

    def show(self, line: str, share: float, ended: bool) -> None:
        """Show a line and a bar; at the end nothing: the result stands there."""
        from IPython.display import HTML, display

        if self._handle is None and not ended:
            self._handle = display(HTML(self._html(line, share, save=True)), display_id=True)
        elif self._handle is not None:
            self._handle.update(HTML("" if ended else self._html(line, share)))

    def _html(self, line: str, share: float, save: bool = False) -> str:
        name = uuid4().hex[:12]
        script = _SCRIPT.replace("ID", name).replace("SAVE", "true" if save else "false")
        shown = (
            f'<div class="kit-progress" role="status" data-kit-progress="{name}" data-kernel="{KERNEL}">'
            f'<progress max="1" value="{share:.3f}"></progress><span>{escape(line)}</span>'
            f'<a href="{self._link}" hidden>{escape(self._link)}</a></div>'
        )
        return in_jupyter(shown) + script
