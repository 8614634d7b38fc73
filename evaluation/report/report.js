"use strict";
const parsed = text => {
  const found = text.replace(/,/g, "").replace("∞", "Infinity").replace("−", "-").match(/-?(\d+(\.\d+)?|Infinity)/);
  return found ? Number(found[0]) : NaN;
};
const sort = (body, column, width, isNumber, falling) => {
  const text = row => row.cells[column].textContent.trim();
  const compare = (one, other) => {
    if (!isNumber) return text(one).localeCompare(text(other), "en", {numeric: true}) * (falling ? -1 : 1);
    const [a, b] = [parsed(text(one)), parsed(text(other))];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a === b ? 0 : (a < b ? -1 : 1) * (falling ? -1 : 1);
  };
  body.append(...[...body.rows].filter(row => row.cells.length === width).sort(compare));
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      table.classList.add("sorted");
      for (const body of table.tBodies) sort(body, column, heads.length, head.classList.contains("number"), falling);
    });
  });
}
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const folded of unfolded) folded.open = true;
});
addEventListener("afterprint", () => {
  for (const opened of unfolded) opened.open = false;
});
