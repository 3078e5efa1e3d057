"use strict";

// The theme: the system's until the button is pressed.

(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("usweep-theme", root.dataset.theme);
    } catch (error) {
      // Not remembered, but shown.
    }
    show();
  });
  system.addEventListener("change", show);
  show();
})();

// A link to a claim opens it.

(() => {
  const open = () => {
    const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();

// The table of units: filtered and sorted as numbers in memory, with one page of rows in the
// document.

(() => {
  const PAGE_ROWS = 50;
  const PRINTED_ROWS = 500;
  const LABEL = 0;

  const { columns, words, rows, records } = JSON.parse(
    document.getElementById("unit-data").textContent,
  );
  const KEY = columns.length;
  const CAUSE = KEY + 1;
  const OUTCOME = columns.findIndex((column) => column.name === "outcome");
  const KIND = columns.findIndex((column) => column.name === "kind");
  const table = document.getElementById("unit-table");
  const body = table.tBodies[0];
  const form = document.getElementById("filters");
  const search = document.getElementById("filter-text");
  const selects = [...form.querySelectorAll("select")];
  const heads = [...table.querySelectorAll("th[data-column]")];
  const sorting = { column: -1, direction: 1 };
  let shown = rows;
  let page = 0;

  const collator = new Intl.Collator("en", { numeric: true });
  const ranks = new Array(words.length);
  words
    .map((word, index) => index)
    .sort((a, b) => collator.compare(words[a], words[b]))
    .forEach((index, rank) => (ranks[index] = rank));

  const formats = columns.map((column) => {
    if (!column.numeric) return (value) => words[value];
    const digits =
      column.decimals < 0
        ? { maximumFractionDigits: 6 }
        : { minimumFractionDigits: column.decimals, maximumFractionDigits: column.decimals };
    const format = new Intl.NumberFormat("en", digits);
    return (value) => (value === null ? "–" : format.format(value));
  });

  const haystacks = rows.map((row) =>
    columns
      .flatMap((column, index) => (column.numeric ? [] : [words[row[index]]]))
      .concat(words[row[CAUSE]], row[KEY] ?? "")
      .join("\n")
      .toLowerCase(),
  );
  const position = new Map(rows.map((row, index) => [row, index]));

  function fillFilters() {
    for (const select of selects) {
      const index = columns.findIndex((column) => column.name === select.dataset.column);
      const numeric = columns[index].numeric;
      const found = [...new Set(rows.map((row) => row[index]))].filter((value) =>
        numeric ? value !== null : words[value] !== "",
      );
      found.sort((a, b) => (numeric ? a - b : ranks[a] - ranks[b]));
      select.dataset.index = index;
      select.append(...found.map((value) => new Option(formats[index](value), value)));
      select.disabled = found.length < 2;
    }
  }

  function sortKey(row, column) {
    const value = row[column];
    if (columns[column].numeric) return value;
    return words[value] === "" ? null : ranks[value];
  }

  // What was not measured comes last, whichever the direction.
  function compare(a, b) {
    const first = sortKey(a, sorting.column);
    const second = sortKey(b, sorting.column);
    if (first === null || second === null) return (first === null) - (second === null);
    return (first - second) * sorting.direction || position.get(a) - position.get(b);
  }

  function update() {
    const needles = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects
      .filter((select) => select.value !== "")
      .map((select) => [Number(select.dataset.index), Number(select.value)]);
    shown = rows.filter(
      (row, index) =>
        wanted.every(([column, value]) => row[column] === value) &&
        needles.every((needle) => haystacks[index].includes(needle)),
    );
    if (sorting.column >= 0) shown.sort(compare);
    page = 0;
    const all = rows.length.toLocaleString("en");
    document.getElementById("count").textContent =
      shown.length === rows.length
        ? `${all} units`
        : `${shown.length.toLocaleString("en")} of ${all} units`;
    showPage();
  }

  function cellsOf(row) {
    return columns.map((column, index) => {
      const cell = document.createElement(index === LABEL ? "th" : "td");
      const text = formats[index](row[index]);
      if (column.numeric) cell.className = "number";
      if (index === LABEL) {
        cell.scope = "row";
        cell.append(row[KEY] === null ? text : recordLink(row, text));
      } else if (index === OUTCOME) {
        cell.append(outcomeOf(text));
        if (words[row[CAUSE]]) cell.append(causeOf(words[row[CAUSE]]));
      } else {
        cell.textContent = text || "–";
        if (column.name === "commit" && text.length > 14) {
          cell.textContent = text.slice(0, 10) + (text.endsWith("+dirty") ? "+dirty" : "");
          cell.title = text;
        }
      }
      return cell;
    });
  }

  function recordLink(row, text) {
    const link = document.createElement("a");
    link.href = `${records}/${words[row[KIND]].replace("-", "_")}/${row[KEY]}/record.json`;
    link.textContent = text;
    return link;
  }

  function outcomeOf(text) {
    const outcome = document.createElement("span");
    outcome.className = `outcome ${text.replace(" ", "_")}`;
    outcome.textContent = text;
    return outcome;
  }

  function causeOf(text) {
    const cause = document.createElement("div");
    cause.className = "cause";
    cause.textContent = text;
    return cause;
  }

  function render(visible) {
    const lines = visible.map((row) => {
      const line = document.createElement("tr");
      line.append(...cellsOf(row));
      return line;
    });
    if (lines.length === 0) {
      const line = document.createElement("tr");
      const cell = line.insertCell();
      cell.colSpan = columns.length;
      cell.textContent = rows.length ? "No unit matches." : "No unit is planned.";
      lines.push(line);
    }
    body.replaceChildren(...lines);
  }

  function showPage() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
    render(shown.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS));
    document.getElementById("page").textContent = `page ${page + 1} of ${pages}`;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page === pages - 1;
  }

  function sortBy(head) {
    const column = Number(head.dataset.column);
    const same = sorting.column === column;
    sorting.direction = same ? -sorting.direction : 1;
    sorting.column = column;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sorting.direction > 0 ? "ascending" : "descending");
    update();
  }

  for (const head of heads) head.querySelector("button").addEventListener("click", () => sortBy(head));
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update)); // once the fields are empty
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    document.getElementById(id).addEventListener("click", () => {
      page += step;
      showPage();
    });
  }

  // Paper has no pages to turn and no details to open.
  const closed = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      closed.push(details);
    }
    render(shown.slice(0, PRINTED_ROWS));
    document.getElementById("page").textContent =
      shown.length > PRINTED_ROWS
        ? `The first ${PRINTED_ROWS} are printed; results.parquet has all.`
        : "";
  });
  addEventListener("afterprint", () => {
    for (const details of closed.splice(0)) details.open = false;
    showPage();
  });

  fillFilters();
  update();
})();
