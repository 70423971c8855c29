"use strict";
// Sorts and filters the gallery; without this script all samples are shown, the most suspicious first. What is chosen is
// in the page's address, so that other pages can link to a part of it.
(() => {
  const table = document.querySelector("table");
  const body = table?.tBodies[0];
  const words = new Intl.Collator(undefined, { numeric: true });

  function sortBy(head) {
    const falling = head.getAttribute("aria-sort") === "ascending";
    const column = [...head.parentElement.cells].indexOf(head);
    const value = (row) => row.cells[column].dataset.sort;
    const compare = head.dataset.numbers === undefined ? words.compare : (a, b) => a - b;
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)) * (falling ? -1 : 1));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...rows);
    document.getElementById("sorted").textContent =
      `Sorted by ${head.textContent.trim()}, ${falling ? "descending" : "ascending"}.`;
  }

  for (const button of table?.querySelectorAll("th button") ?? []) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  const form = document.getElementById("filters");
  if (!form) return;
  const fields = [...form.querySelectorAll("select, input")];
  let group = new Set(); // names of samples that another page asks for
  const is = (field) => (field.type === "checkbox" ? (field.checked ? "yes" : "") : field.value.trim());

  function keeps(row, field) {
    const wanted = is(field);
    if (!wanted) return true;
    if (field.name === "suspicious") return Number(row.dataset.p) <= 0.05;
    if (field.name === "name") return row.querySelector("th").dataset.sort.toLowerCase().includes(wanted.toLowerCase());
    return row.dataset[field.name] === wanted;
  }

  function filter() {
    const rows = [...body.rows];
    for (const row of rows) {
      const named = !group.size || group.has(row.querySelector("th").dataset.sort);
      row.hidden = !named || !fields.every((field) => keeps(row, field));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    const listed = rows.filter((row) => group.has(row.querySelector("th").dataset.sort)).length;
    const missing = group.size - listed;
    const rest = `${missing} more ${missing === 1 ? "is" : "are"} not in this gallery; fer explain --errors makes one of all mistakes.`;
    document.getElementById("count").textContent =
      (shown === rows.length ? `${rows.length} samples.` : `${shown} of ${rows.length} samples${group.size ? ", those of one group" : ""}.`) + (missing ? ` ${rest}` : "");
  }

  function remember() {
    const asked = [...group].map((name) => ["sample", name]);
    const chosen = new URLSearchParams([...asked, ...fields.filter(is).map((field) => [field.name, is(field)])]);
    history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname);
    filter();
  }

  function recall() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    group = new Set(chosen.getAll("sample"));
    for (const field of fields) {
      const value = chosen.get(field.name) ?? "";
      if (field.type === "checkbox") field.checked = Boolean(value);
      else field.value = field.tagName !== "SELECT" || [...field.options].some((o) => o.value === value) ? value : "";
    }
    filter();
  }

  form.hidden = false;
  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { group = new Set(); remember(); }));
  addEventListener("hashchange", recall);
  recall();
})();
