"use strict";
// Sorts the gallery by a column; without this script the most suspicious stay first.
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
})();
