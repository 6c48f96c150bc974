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
  const draw = async (place, spec, label = place.getAttribute("aria-label")) => {
    try {
      const { view } = await window.vegaEmbed(place, spec, options);
      // The library names every chart "Vega visualization"; ours have a sentence each.
      place.setAttribute("role", "img");
      place.removeAttribute("aria-roledescription");
      place.setAttribute("aria-label", label);
      place.dataset.drawn = "yes";
      return view;
    } catch (error) {
      place.textContent = `This chart could not be drawn: ${error}`;
      console.error(error);
      return null;
    }
  };

  // A chart with several measures to lay across: one specification is drawn at a time. Its extent and what is hidden
  // are signals of its view, which the buttons set as a mouse does.
  const explore = async (box) => {
    const place = box.querySelector(".plot");
    const pressed = (button) => button.getAttribute("aria-pressed") === "true";
    const methods = [...box.querySelectorAll("[data-method]")];
    const moves = box.querySelectorAll("[data-move]");
    let view = await draw(place, charts[place.dataset.chart]);
    const hide = () => view?.signal("hidden", methods.filter((one) => !pressed(one)).map((one) => one.dataset.method)).runAsync();
    const move = (how) => {
      const x = view.scale("x").domain().map(Math.log);
      const y = view.scale("y").domain();
      const to = ([low, high]) => {
        const grow = ((high - low) * ({ in: -0.4, out: 2 / 3 }[how] ?? 0)) / 2;
        return [low - grow, high + grow];
      };
      const by = ([low, high], share) => [low + share * (high - low), high + share * (high - low)];
      const step = { left: [-0.2, 0], right: [0.2, 0], up: [0, 0.2], down: [0, -0.2] }[how] ?? [0, 0];
      const all = how === "all";
      view.signal("zoom_at", all ? null : by(to(x), step[0]).map(Math.exp));
      view.signal("zoom_value", all ? null : by(to(y), step[1]));
      view.runAsync();
    };
    for (const button of methods) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(!pressed(button)));
        hide();
      });
    }
    for (const button of moves) button.addEventListener("click", () => view && move(button.dataset.move));
    for (const choice of box.querySelectorAll("[name=across]")) {
      choice.addEventListener("change", async () => {
        view?.finalize();
        view = await draw(place, charts[choice.value], choice.dataset.label);
        hide();
      });
    }
    box.querySelector(".controls").hidden = false;
  };

  const explored = [...document.querySelectorAll(".explore")].map(explore);
  const drawn = [...document.querySelectorAll(".plot")]
    .filter((place) => !place.closest(".explore"))
    .map((place) => draw(place, charts[place.dataset.chart]));
  Promise.all([...drawn, ...explored]).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
