// Sorts tables by a column.
"use strict";
(() => {
  const UNITS = { ns: 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, MiB: 1, GiB: 1024 };

  function value(cell) {
    const text = (cell?.textContent ?? "").trim();
    const number = /^([\d,]*\.?\d+(?:e[+-]?\d+)?)\s*([a-zA-Zµ]*)/.exec(text);
    if (!number) return text === "—" ? Infinity : text.toLowerCase();
    return Number(number[1].replaceAll(",", "")) * (UNITS[number[2]] ?? 1);
  }

  function sort(table, column, button) {
    const head = button.parentElement;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
    rows.sort(([a], [b]) => sign * (typeof a === typeof b ? (a < b ? -1 : a > b) : typeof a === "number" ? -1 : 1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, button));
      head.append(button);
    });
  }
})();
