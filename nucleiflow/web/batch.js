"use strict";
(() => {
  const body = document.querySelector("#slides tbody");
  if (!body) return;
  // a cell is worth its number, or else its text; cells without either come last
  const value = (row, column) => {
    const { dataset, textContent } = row.cells[column];
    if (dataset.value === undefined) return textContent.trim().toLowerCase();
    return dataset.value === "" ? null : Number(dataset.value);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  for (const button of document.querySelectorAll("#slides thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const isUp = head.getAttribute("aria-sort") === (head.classList.contains("n") ? "descending" : null);
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const keyed = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return (isUp ? 1 : -1) * compare(a, b);
      });
      body.append(...keyed.map(([, row]) => row));
    });
  }
  document.getElementById("find")?.addEventListener("input", ({ target }) => {
    const wanted = target.value.trim().toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
})();
