"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tracks = new Map(data.tracks.map((track) => [track.track, track]));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const plots = []; // {element, spec}, drawn again when the colour scheme changes
  const TIE = 1e-6; // between float32 values
  const DIFFERING = 50; // questions in the table of a pair

  // The state of every control stands in the URL, so that a link shows the same view.
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  function remember(track, name, value) {
    state.set(`${track}.${name}`, value);
    history.replaceState(null, "", `#${state}`);
  }
  const recalled = (track, name) => state.get(`${track}.${name}`);

  function config() {
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    const line = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    const axis = { labelColor: ink, titleColor: ink, gridColor: line, domainColor: ink, tickColor: ink, labelLimit: 220 };
    return {
      background: null, axis, title: { color: ink }, legend: { labelColor: ink, titleColor: ink, orient: "bottom" },
      point: { color: accent }, rule: { color: ink }, line: { color: accent }, bar: { color: accent }, text: { color: ink },
      view: { stroke: null }, font: "system-ui, sans-serif",
    };
  }

  async function draw(element, spec) {
    if (!plots.some((plot) => plot.element === element)) plots.push({ element, spec });
    plots.find((plot) => plot.element === element).spec = spec;
    element.classList.add("live");
    element.replaceChildren();
    await vegaEmbed(element, spec, {
      ast: true, renderer: "svg", config: config(), defaultStyle: false,
      actions: { export: { svg: true, png: false }, source: false, compiled: false, editor: false },
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
  }
  dark.addEventListener("change", () => plots.forEach((plot) => draw(plot.element, plot.spec)));

  function cell(tag, text, right, header) {
    const node = document.createElement(tag);
    node.textContent = text;
    if (right) node.className = "right";
    if (header) node.scope = header;
    return node;
  }

  // A column is {name, right}. A row is a list of cells; a cell is a text or an element, or [text, value to sort by].
  function table(columns, rows, caption) {
    const node = document.createElement("table");
    node.append(Object.assign(document.createElement("caption"), { textContent: caption }));
    const head = node.createTHead().insertRow();
    for (const column of columns) head.append(cell("th", column.name, column.right, "col"));
    const body = node.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      row.forEach((entry, index) => {
        const [text, value] = Array.isArray(entry) ? entry : [entry, entry];
        const isNode = text instanceof Node;
        const td = cell("td", isNode ? "" : text, columns[index].right);
        if (isNode) td.append(text);
        td.dataset.value = (isNode ? text.dataset.value : value) ?? "";
        if (columns[index].text) td.className = "text";
        line.append(td);
      });
    }
    sortable(node);
    return node;
  }

  function sortable(node) {
    [...node.tHead.rows[0].cells].forEach((th, index) => {
      if (!th.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.textContent;
      th.replaceChildren(button);
      button.addEventListener("click", () => sort(node, index));
    });
  }

  const key = (row, index) => row.cells[index].dataset.value ?? row.cells[index].textContent;
  function sort(node, index) {
    const th = node.tHead.rows[0].cells[index];
    const descending = th.getAttribute("aria-sort") === "ascending";
    [...node.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...node.tBodies[0].rows];
    rows.sort((first, second) => {
      const [a, b] = [key(first, index), key(second, index)];
      const numbers = a !== "" && b !== "" && !isNaN(a) && !isNaN(b);
      return (numbers ? a - b : a.localeCompare(b, "en", { numeric: true })) * (descending ? -1 : 1);
    });
    node.tBodies[0].append(...rows);
  }

  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
    if (chosen !== null && options.some(([value]) => value === chosen)) select.value = chosen;
  }

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  function deviation(values) {
    if (values.length < 2) return null;
    const centre = mean(values);
    return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
  }
  const digits = (value) => (value === null ? "-" : value.toFixed(4));
  const signed = (value) => (value >= 0 ? "+" : "-") + Math.abs(value).toFixed(4);
  const interval = (bounds) => (bounds ? `[${signed(bounds[0])}, ${signed(bounds[1])}]` : "-");
  function clock(seconds) {
    if (seconds === null) return "-";
    const minutes = Math.floor(Math.round(seconds) / 60);
    return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${String(Math.round(seconds) % 60).padStart(2, "0")}`;
  }

  function leaderboard(section, track) {
    const form = section.querySelector("form.controls");
    const place = section.querySelector("[data-role=scores]");
    if (!form || !place) return;
    const controls = form.elements;
    const datasets = [...new Set(track.columns.map((column) => column.dataset))];
    const seeds = [...new Set(track.lines.flatMap((line) => line.seeds))].sort((a, b) => a - b);
    const representations = [...new Set(track.lines.map((line) => line.representation))];
    fill(controls.dataset, datasets.map((name) => [name, name]), recalled(track.track, "dataset"));
    fill(controls.representation, [["", "all"], ...representations.map((name) => [name, name])], recalled(track.track, "representation"));
    fill(controls.seeds, [["", "all"], ...seeds.map((seed) => [String(seed), String(seed)])], recalled(track.track, "seeds"));
    controls.filter.value = recalled(track.track, "filter") ?? "";
    let records = [];

    function measures() {
      const names = track.columns.filter((column) => column.dataset === controls.dataset.value).map((column) => column.measure);
      fill(controls.measure, names.map((name) => [name, name]), recalled(track.track, "measure"));
    }
    function show() {
      const column = track.columns.find((entry) => entry.dataset === controls.dataset.value && entry.measure === controls.measure.value);
      const seed = controls.seeds.value;
      const words = controls.filter.value.toLowerCase();
      records = [];
      track.lines.forEach((line, index) => {
        const score = column.scores[index];
        if (!score) return;
        if (controls.representation.value && line.representation !== controls.representation.value) return;
        if (words && !`${line.entrant} ${line.representation}`.toLowerCase().includes(words)) return;
        let values = score.values;
        if (seed && line.seeds.length) values = score.values.filter((_, position) => String(line.seeds[position]) === seed);
        if (!values.length) return;
        const whole = values.length === score.values.length;
        records.push({
          line: line.letter, entrant: line.entrant, representation: line.representation, seeds: line.seeds.length ? values.length : null,
          dataset: column.dataset, measure: column.measure, mean: mean(values), sd: deviation(values),
          ranks: whole ? score.ranks : null, gain: whole ? (score.gain ?? null) : null,
          seconds: line.seconds, pretrain_seconds: line.pretrain_seconds, rows: line.rows,
        });
      });
      records.sort((first, second) => second.mean - first.mean);
      const columns = [
        { name: "line" }, { name: "entrant" }, { name: "read by" }, { name: "seeds", right: true }, { name: column.measure, right: true },
        { name: "rank", right: true }, { name: track.baseline ? `minus ${track.baseline}` : "difference", right: true },
        { name: "simultaneous 95 % interval", right: true }, { name: "time", right: true }, { name: "pre-training", right: true },
      ];
      const rows = records.map((record) => [
        record.line, record.entrant, record.representation, [record.seeds ?? "-", record.seeds ?? 0],
        [`${digits(record.mean)} ± ${digits(record.sd)}`, record.mean],
        record.ranks ? [record.ranks[0] === record.ranks[1] ? `${record.ranks[0]}` : `${record.ranks[0]}-${record.ranks[1]}`, record.ranks[0]] : ["-", ""],
        record.gain ? [signed(record.gain.difference), record.gain.difference] : ["-", ""],
        record.gain ? [interval(record.gain.simultaneous), record.gain.difference] : ["-", ""],
        [clock(record.seconds), record.seconds ?? ""], [clock(record.pretrain_seconds), record.pretrain_seconds ?? ""],
      ]);
      const caption = `${column.measure} on ${column.dataset}, ${seed ? `seed ${seed}` : "mean and standard deviation over seeds"}`;
      place.replaceChildren(table(columns, rows, caption));
    }
    measures();
    form.addEventListener("input", (event) => {
      remember(track.track, event.target.name, event.target.value);
      if (event.target.name === "dataset") measures();
      show();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    section.querySelectorAll("[data-export]").forEach((button) => button.addEventListener("click", () => save(button.dataset.export, records, track.track)));
    show();
  }

  function save(format, records, name) {
    let text = JSON.stringify(records, null, 2);
    if (format === "csv") {
      const names = ["line", "entrant", "representation", "seeds", "dataset", "measure", "mean", "sd", "seconds", "pretrain_seconds"];
      const quoted = (value) => {
        let cellText = value === null || value === undefined ? "" : String(value);
        if (typeof value === "string" && /^[=+\-@]/.test(cellText)) cellText = `'${cellText}`; // no formula in a spreadsheet
        return `"${cellText.replaceAll('"', '""')}"`;
      };
      text = [names.join(","), ...records.map((record) => names.map((column) => quoted(record[column])).join(","))].join("\n");
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: format === "csv" ? "text/csv" : "application/json" }));
    link.download = `${name}.${format}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  function pairs(section, track) {
    const part = section.querySelector("section.pairs");
    const questions = track.questions;
    if (!part || !questions || questions.lines.length < 2) return;
    part.hidden = false;
    const form = part.querySelector("form");
    const values = questions.values.map(unpack);
    const options = questions.lines.map((name) => [name, name]);
    const baseline = track.baseline ?? questions.lines[1];
    const random = track.lines.filter((line) => line.seeds.length).map((line) => line.name);
    const evidence = track.differing;
    const [named, against] = evidence.is_named ? evidence.pairs[0].map((line) => questions.lines[line]) : [null, null];
    const other = questions.lines.find((name) => name !== baseline && random.includes(name)) ?? questions.lines.find((name) => name !== baseline);
    fill(form.elements.a, options, recalled(track.track, "a") ?? named ?? other);
    fill(form.elements.b, options, recalled(track.track, "b") ?? against ?? baseline);

    function show() {
      const [a, b] = [form.elements.a.value, form.elements.b.value];
      const [first, second] = [questions.lines.indexOf(a), questions.lines.indexOf(b)];
      const records = questions.ids.map((id, index) => ({ id, index, a: values[first][index], b: values[second][index], difference: values[first][index] - values[second][index] }));
      const wins = records.filter((record) => record.difference > TIE).length;
      const losses = records.filter((record) => record.difference < -TIE).length;
      let pair = questions.pairs.find((entry) => entry.first === first && entry.second === second);
      let sign = 1;
      if (!pair) { pair = questions.pairs.find((entry) => entry.first === second && entry.second === first); sign = -1; }
      let text = `${a} is better on ${wins} questions, ${b} on ${losses}, both are equal on ${records.length - wins - losses}.`;
      if (pair) {
        const bounds = pair.interval && (sign === 1 ? pair.interval : [-pair.interval[1], -pair.interval[0]]);
        text += ` ${a} minus ${b}: ${signed(sign * pair.difference)}, 95 % interval ${interval(bounds)}, ${pair.significant ? "significant among all pairs" : "not significant among all pairs"}.`;
      }
      part.querySelector("[data-role=pair]").textContent = text;
      draw(part.querySelector("[data-role=histogram]"), histogram(records, questions.measure, a, b));
      const differing = records.filter((record) => Math.abs(record.difference) > TIE).sort((x, y) => Math.abs(y.difference) - Math.abs(x.difference)).slice(0, DIFFERING);
      const columns = [{ name: "question" }, { name: a, right: true }, { name: b, right: true }, { name: "difference", right: true }, { name: "text", text: true }];
      const isChosen = evidence.pairs.some((entry) => entry.includes(first) && entry.includes(second));
      const texts = data.texts[questions.dataset] ?? {};
      const described = (record) => (isChosen ? details(questions, evidence, [first, second], record, texts[record.id]) : texts[record.id] ?? "");
      const rows = differing.map((record) => [record.id, [digits(record.a), record.a], [digits(record.b), record.b], [signed(record.difference), record.difference], described(record)]);
      part.querySelector("[data-role=questions]").replaceChildren(table(columns, rows, `The ${differing.length} questions that differ most in ${questions.measure} on ${questions.dataset}`));
    }
    form.addEventListener("input", (event) => { remember(track.track, event.target.name, event.target.value); show(); });
    show();
  }

  // The judged passages of a question and the first documents of two lines, which are drawn when they are opened.
  function details(questions, evidence, lines, record, text) {
    const node = document.createElement("details");
    node.dataset.value = text ?? "";
    node.append(Object.assign(document.createElement("summary"), { textContent: text || "passages" }));
    node.addEventListener("toggle", () => {
      if (node.childElementCount > 1) return;
      const judged = evidence.judged[record.index] ?? [];
      const relevant = judged.filter(([, grade]) => grade > 0);
      if (relevant.length) node.append(passages("Relevant passages", "ul", relevant.map(([number]) => number), evidence, new Map(judged)));
      const both = document.createElement("div");
      both.className = "tops";
      for (const line of lines) {
        const top = evidence.tops[line]?.[record.index];
        if (!top) continue;
        const seed = evidence.seeds[line];
        const title = `First ${top.length} of ${questions.lines[line]}${seed === null ? "" : `, seed ${seed}`}`;
        both.append(passages(title, "ol", top, evidence, new Map(judged)));
      }
      node.append(both);
    });
    return node;
  }

  function passages(title, kind, numbers, evidence, grades) {
    const part = document.createElement("div");
    part.append(Object.assign(document.createElement("h4"), { textContent: title }));
    const list = document.createElement(kind);
    for (const number of numbers) {
      const item = document.createElement("li");
      item.append(Object.assign(document.createElement("code"), { textContent: evidence.documents[number] }));
      const grade = grades.get(number);
      if (grade !== undefined) item.append(" ", Object.assign(document.createElement("strong"), { textContent: grade > 0 ? `relevant (${grade})` : `not relevant (${grade})` }));
      if (evidence.texts[number]) item.append(` ${evidence.texts[number]}`);
      list.append(item);
    }
    part.append(list);
    return part;
  }

  function curves(section, track) {
    const part = section.querySelector("section.curves");
    if (!part || !track.curves.length) return;
    const controls = part.querySelector("form").elements;
    const order = (name) => ["pretrain", "adapt", "finetune"].indexOf(name.split(" ")[0]);
    const trainings = [...new Set(track.curves.map((curve) => curve.training))].sort((a, b) => order(a) - order(b));
    fill(controls.training, trainings.map((name) => [name, name]), recalled(track.track, "training"));
    const axes = { step: () => 1, tokens: (curve) => curve.tokens_per_step, minutes: (curve) => curve.seconds_per_step && curve.seconds_per_step / 60 };
    fill(controls.against, Object.keys(axes).map((name) => [name, name]), recalled(track.track, "against"));

    function values() {
      const counts = new Map();
      for (const curve of track.curves.filter((entry) => entry.training === controls.training.value)) {
        for (const name of Object.keys(curve.values)) if (name !== "step") counts.set(name, (counts.get(name) ?? 0) + 1);
      }
      const last = ["probe", "probe_coverage", "gradient_norm", "rate"]; // losses first, the most widely logged before others
      const names = [...counts.keys()].sort((a, b) => last.indexOf(a) - last.indexOf(b) || counts.get(b) - counts.get(a));
      fill(controls.value, names.map((name) => [name, name]), recalled(track.track, "value"));
    }
    function show() {
      const scale = axes[controls.against.value];
      const points = [];
      for (const curve of track.curves) {
        if (curve.training !== controls.training.value || !curve.values[controls.value.value] || !scale(curve)) continue;
        const logged = curve.values[controls.value.value];
        curve.values.step.forEach((step, index) => { if (logged[index] !== null) points.push({ line: curve.line, x: step * scale(curve), y: logged[index] }); });
      }
      draw(part.querySelector("[data-role=curves]"), {
        $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 280, data: { values: points },
        description: `${controls.value.value} of ${controls.training.value} against ${controls.against.value}`,
        mark: { type: "line", aria: false, point: { size: 12 }, tooltip: true },
        encoding: {
          x: { field: "x", type: "quantitative", title: controls.against.value },
          y: { field: "y", type: "quantitative", title: controls.value.value, scale: { zero: false } },
          color: { field: "line", type: "nominal", title: null },
        },
      });
    }
    values();
    part.querySelector("form").addEventListener("input", (event) => {
      remember(track.track, event.target.name, event.target.value);
      if (event.target.name === "training") values();
      show();
    });
    show();
  }

  function histogram(records, measure, a, b) {
    return {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 160,
      data: { values: records.filter((record) => Math.abs(record.difference) > TIE).map((record) => ({ difference: record.difference })) },
      description: `Histogram of ${measure}, ${a} minus ${b}, by question`,
      mark: { type: "bar", aria: false },
      encoding: {
        x: { bin: { step: 0.1 }, field: "difference", type: "quantitative", title: `${measure}: ${a} minus ${b}, questions that differ` },
        y: { aggregate: "count", type: "quantitative", title: "questions" },
      },
    };
  }

  document.querySelectorAll(".controls").forEach((node) => { node.hidden = false; });
  document.querySelectorAll("table").forEach(sortable);
  document.querySelectorAll("section.track").forEach((section) => {
    const track = tracks.get(section.dataset.track);
    if (!track) return;
    leaderboard(section, track);
    curves(section, track);
    pairs(section, track);
  });
  document.querySelectorAll("[data-spec]").forEach((element) => draw(element, data.plots[element.dataset.spec]));
})();
