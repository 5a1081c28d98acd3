// Sorts and filters the tables, and keeps what was chosen in the page's address, so that a link reopens it.
"use strict";
(() => {
  const VERDICTS = ["faster", "same", "unresolved", "slower", "correctness only", "baseline", "invalid", "failed", "skipped"];
  const UNITS = new Map(Object.entries({
    ns: 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600,
    B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40,
  }));
  const SPOKEN = new Map(Object.entries({ "at once": 0, never: Number.MAX_VALUE }));
  const ORDER = new Intl.Collator("en", { numeric: true });
  const asked = () => new URLSearchParams(location.search);

  function keep(changes, isStep) {
    const params = asked();
    for (const [name, value] of Object.entries(changes)) value ? params.set(name, value) : params.delete(name);
    const query = params.toString();
    const address = location.pathname + (query ? `?${query}` : "") + location.hash;
    try {
      history[isStep ? "pushState" : "replaceState"](null, "", address);
    } catch { /* a page within another may have no address of its own */ }
  }

  // ------------------------------------------------------------------------------------------------ sorting

  function value(cell) {
    const text = (cell?.textContent ?? "").trim();
    const verdict = VERDICTS.indexOf(text);
    if (verdict >= 0) return verdict;
    if (text === "" || text === "—") return null;
    if (SPOKEN.has(text)) return SPOKEN.get(text);
    const said = text.replace(/^(?:after|about|under) /, "");
    const number = /^[−-]?[\d,]*\.?\d+(?:e[+-]?\d+)?(?=$|[^\w.-]|[a-zµG])/.exec(said);
    if (!number) return text.toLowerCase();
    const unit = /^\s*([a-zA-Zµ]+)/.exec(said.slice(number[0].length));
    return Number(number[0].replace("−", "-").replaceAll(",", "")) * (UNITS.get(unit?.[1]) ?? 1);
  }

  function cellAt(row, column) {
    let place = 0;
    for (const cell of row.cells) {
      if (column < place + cell.colSpan) return cell.colSpan > 1 ? null : cell;
      place += cell.colSpan;
    }
    return null;
  }

  function before(one, other) {
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === typeof other) return typeof one === "number" ? one - other : ORDER.compare(one, other);
    return typeof one === "number" ? -1 : 1;
  }

  function sortBy(table, column, way) {
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => one.dataset.place - other.dataset.place);
    if (way) {
      const keys = new Map(rows.map((row) => [row, value(cellAt(row, column))]));
      const sign = way === "desc" ? -1 : 1;
      rows.sort((one, other) => {
        const [a, b] = [keys.get(one), keys.get(other)];
        return a === null || b === null ? before(a, b) : sign * before(a, b); // what is not known stays last
      });
    }
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (way && place === column) head.setAttribute("aria-sort", way === "desc" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  const parameter = (table) => (table.id === "all" ? "sort" : `sort-${table.id}`);
  const keyOf = (head) => head.dataset.key || head.textContent.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-");

  function restore(table) {
    const [, key, way] = /^(.*):(asc|desc)$/.exec(asked().get(parameter(table)) ?? "") ?? [];
    const column = [...table.tHead.rows[0].cells].findIndex((head) => keyOf(head) === key);
    sortBy(table, column, column < 0 ? "" : way);
  }

  function makeSortable(table) {
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    for (const head of table.tHead.rows[0].cells) {
      head.dataset.key = keyOf(head);
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const way = now === "ascending" ? "desc" : now ? "" : "asc";
        keep({ [parameter(table)]: way && `${head.dataset.key}:${way}` }, true);
        restore(table);
      });
    }
  }

  const sortable = [...document.querySelectorAll("table.sortable[id]")].filter((table) => table.tBodies[0]?.rows.length > 1);
  sortable.forEach(makeSortable);

  // ------------------------------------------------------------------------------------------------ filtering

  const all = document.getElementById("all");
  const form = document.querySelector(".filter");
  const named = (id) => document.getElementById(id);
  const controls = all && form ? { q: named("q"), technique: named("f-technique"), verdict: named("f-verdict") } : {};

  const places = () => Object.fromEntries([...all.tHead.rows[0].cells].map((head, place) => [head.dataset.key, place]));

  function offer(select, column) {
    const found = new Set([...all.tBodies[0].rows].map((row) => row.cells[column].textContent.trim()));
    for (const text of found) select.add(new Option(text, text));
  }

  function filter() {
    const at = places();
    const words = controls.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let many = 0;
    for (const row of all.tBodies[0].rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      const exact = ["technique", "verdict"].every(
        (name) => !controls[name].value || row.cells[at[name]].textContent.trim() === controls[name].value);
      row.hidden = !(exact && words.every((word) => text.includes(word)));
      many += !row.hidden;
    }
    named("shown").textContent = `${many} of ${all.tBodies[0].rows.length} shown`;
  }

  function reopen() {
    for (const [name, control] of Object.entries(controls)) {
      control.value = asked().get(name) ?? "";
      if (control.selectedIndex < 0) control.value = "";
    }
    sortable.forEach(restore);
    if (form && all) filter();
  }

  if (form && all) {
    form.hidden = false;
    offer(controls.technique, places().technique);
    offer(controls.verdict, places().verdict);
    for (const [name, control] of Object.entries(controls)) {
      control.addEventListener("input", () => {
        keep({ [name]: control.value }, control.tagName === "SELECT");
        filter();
      });
    }
    named("f-reset").addEventListener("click", () => {
      keep({ q: "", technique: "", verdict: "", sort: "" }, true);
      reopen();
    });
  }
  addEventListener("popstate", reopen);
  reopen();
})();
