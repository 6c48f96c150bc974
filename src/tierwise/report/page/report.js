"use strict";
(() => {
  // Sorting: a header's button turns its column over; rows without a figure stay at the end either way.
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const keyOf = (row, column) => {
    const key = row.cells[column].dataset.key;
    if (key === undefined) return null;
    return key === "" || Number.isNaN(Number(key)) ? key : Number(key);
  };
  const sortBy = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row, column) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return down ? compare(b.key, a.key) : compare(a.key, b.key);
    });
    table.tBodies[0].append(...rows.map((entry) => entry.row));
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      head.querySelector("button")?.addEventListener("click", () => sortBy(table, column));
    }
  }

  // What scrolls sideways shows it by a shadow at the side where more is.
  const edges = (box) => {
    box.classList.toggle("more-left", box.scrollLeft > 2);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  };
  for (const box of document.querySelectorAll(".scroll")) {
    box.addEventListener("scroll", () => edges(box), { passive: true });
    new ResizeObserver(() => edges(box)).observe(box);
  }

  // The effect map says in words what a cell under the pointer or finger holds.
  const claims = {
    faster: "faster by its ratio's interval", slower: "slower by its ratio's interval",
    equivalent: "no difference that matters", undecided: "neither a difference nor its absence is shown",
  };
  for (const table of document.querySelectorAll("table.effects")) {
    const readout = table.parentElement.nextElementSibling;
    const rows = [...table.tBodies[0].rows];
    const names = rows.map((row) => row.cells[0].textContent.slice(row.cells[0].firstChild.textContent.length));
    const figure = (row, column) => {
      const [value, note] = rows[row].cells[column + 1].childNodes;
      return [value.textContent.replace(/[*≈ ]/g, ""), note.textContent];
    };
    readout.hidden = false;
    readout.textContent = "Point at a cell, or tap it, to read it in words.";
    const read = (event) => {
      const cell = event.target.closest("td[data-p]");
      if (!cell) return;
      table.querySelector(".picked")?.classList.remove("picked");
      cell.classList.add("picked");
      const [i, j] = [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
      const [low, high] = [Math.min(i, j), Math.max(i, j)];
      const [ratio, ends] = figure(low, high);
      const [delta, band] = figure(high, low);
      readout.textContent = `${names[i]} against ${names[j]}: ${claims[cell.dataset.v]}, ${cell.dataset.p}. The median of ` +
        `${names[low]} is ${ratio} (${ends}) of that of ${names[high]}; Cliff's delta of ${names[high]} is ${delta}, ${band}.`;
    };
    table.addEventListener("pointerover", read);
    table.addEventListener("click", read);
  }

  // Charts. `ast` evaluates Vega's expressions without eval, which the page's policy forbids.
  const { config, charts } = JSON.parse(document.getElementById("charts").textContent);
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config,
    tooltip: { disableDefaultStyle: true },
  };
  const drawn = Object.entries(charts).map(async ([id, spec]) => {
    const place = document.getElementById(`chart-${id}`);
    try {
      await window.vegaEmbed(place, spec, options);
      place.dataset.drawn = "yes";
    } catch (error) {
      place.textContent = `This chart could not be drawn: ${error}`;
      console.error(error);
    }
  });
  Promise.all(drawn).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
